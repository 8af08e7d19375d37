"""The maximum error of the machine's clock, as its synchronisation reports it."""

import ctypes
import ctypes.util
import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PMC_COMMANDS: Final = ("GET CURRENT_DATA_SET", "GET PARENT_DATA_SET", "GET PORT_DATA_SET")

_FIELD: Final = re.compile(r"[ \t]+([\w.]+)[ \t]+(\S+)[ \t]*")

_FOLLOWS: Final = frozenset({"SLAVE", "UNCALIBRATED"})

_ACCURACY: Final = dict(
    enumerate(
        (25, 100, 250, 1000, 2500, 10_000, 25_000, 100_000, 250_000, 10**6, 2_500_000, 10**7, 25 * 10**6, 10**8,
         25 * 10**7, 10**9, 10**10), start=0x20,
    )
)  # fmt: skip
"""Nanoseconds by clockAccuracy, IEEE 1588-2008 table 6; other values give no bound."""


def parse_pmc_output(text: str) -> int | None:
    """Return the error bound in nanoseconds, -1 if unknown, None if PTP does not synchronise this clock.

    The bound is |offset from the master| + the mean path delay, which no asymmetry of the path exceeds, + the accuracy
    that the grandmaster claims. A clock without a master is synchronised by something else.
    """
    fields = [(found[1], found[2]) for line in text.splitlines() if (found := _FIELD.fullmatch(line))]
    states = {value for name, value in fields if name == "portState"}
    if not states & _FOLLOWS:
        return None
    values = dict(fields)
    try:
        offset, delay = float(values["offsetFromMaster"]), float(values["meanPathDelay"])
        accuracy = _ACCURACY[int(values["gm.ClockAccuracy"], 16)]
        steps = int(values["stepsRemoved"])
    except (KeyError, ValueError):
        return -1
    if steps < 1 or "SLAVE" not in states:
        return -1
    return round(abs(offset) + abs(delay)) + accuracy


_UNSYNCHRONISED: Final = 0x0040
"""STA_UNSYNC of adjtimex(2)."""

_ASK_SECONDS: Final = 2.0

_CHRONY: Final = ("chronyc", "-c", "tracking")

_PTP: Final = ("pmc", "-u", "-b", "0", *PMC_COMMANDS)


@dataclass(frozen=True, slots=True)
class ClockEvidence:
    """What synchronises the clock, and the bound of its error in nanoseconds, -1 if unknown."""

    source: str
    error: int


UNKNOWN: Final = ClockEvidence("unknown", -1)


def read_clock() -> ClockEvidence:
    """Read the clock's error from chrony or PTP if they run here, otherwise from the kernel."""
    chrony = _ask_chrony()
    bounded = chrony is not None and chrony.error >= 0
    return choose(chrony, None if bounded else _ask_ptp(), _ask_kernel())


def choose(chrony: ClockEvidence | None, ptp: ClockEvidence | None, kernel: ClockEvidence) -> ClockEvidence:
    """Return the evidence with a bound, chrony's first, since it sets the clock where both run; else any evidence.

    PTP may synchronise the network card's clock only: its bound applies to the system clock only while the kernel
    reports that clock as synchronised.
    """
    if ptp is not None and kernel.error < 0:
        ptp = ClockEvidence(ptp.source, -1)
    known = [each for each in (chrony, ptp) if each is not None]
    bounded = [each for each in known if each.error >= 0]
    return next(iter(bounded or known), kernel)


def parse_tracking(text: str) -> ClockEvidence | None:
    """Parse the output of `chronyc -c tracking`; the bound is |offset| + root dispersion + half the root delay."""
    fields = text.strip().split(",")
    try:
        offset, delay, dispersion = float(fields[4]), float(fields[10]), float(fields[11])
    except (IndexError, ValueError):
        return None
    bound = abs(offset) + dispersion + delay / 2
    if fields[-1] == "Not synchronised" or not math.isfinite(bound):
        return ClockEvidence("chrony", -1)
    return ClockEvidence("chrony", round(bound * 1e9))


def _ask_chrony() -> ClockEvidence | None:
    output = _run(_CHRONY)
    return None if output is None else parse_tracking(output)


def _ask_ptp() -> ClockEvidence | None:
    output = _run(_PTP)
    error = None if output is None else parse_pmc_output(output)
    return None if error is None else ClockEvidence("ptp", error)


def _run(command: Sequence[str]) -> str | None:
    """Return the output of a program; None if it is missing, fails or times out."""
    program = shutil.which(command[0])
    if program is None:  # most machines have at most one of the two; avoids a process every second
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


class _Timex(ctypes.Structure):
    """The head of struct timex; the rest is padding that the kernel may write to."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def _ask_kernel() -> ClockEvidence:
    library = ctypes.util.find_library("c")
    adjtimex = getattr(ctypes.CDLL(library), "adjtimex", None) if library else None
    timex = _Timex()
    if adjtimex is None or adjtimex(ctypes.byref(timex)) < 0:
        return UNKNOWN
    if timex.status & _UNSYNCHRONISED:
        return ClockEvidence("kernel", -1)
    return ClockEvidence("kernel", int(timex.maxerror) * 1000)


_NANOSECONDS: Final = {"ns": 1, "us": 1000, "\N{MICRO SIGN}s": 1000, "ms": 1_000_000, "": 1_000_000, "s": 10**9}

_BOUND: Final = re.compile(r"(\d{1,9})(?:\.(\d{1,9}))?\s*(ns|us|\N{MICRO SIGN}s|ms|s|)")

_LARGEST: Final = 10**12


@dataclass(frozen=True, slots=True)
class ClockTier:
    """A bound in nanoseconds, None for no bound."""

    bound: int | None = None

    @classmethod
    def parse(cls, text: str) -> "ClockTier":
        """Parse `100 us`, `1 ms`, `50ms`, `1 s`, a number of milliseconds, or `off`. Raises `ValueError`."""
        if text.strip().lower() == "off":
            return cls()
        found = _BOUND.fullmatch(text.strip().lower())
        if found is None:
            raise ValueError("use a bound such as `100 us`, `1 ms`, `50 ms` or `1 s`, or `off`")
        whole, part, unit = found[1], found[2] or "", _NANOSECONDS[found[3]]
        bound = int(whole + part) * unit // 10 ** len(part)
        if not 0 < bound <= _LARGEST:
            raise ValueError("use a bound between 1 ns and 1000 s, or `off`")
        return cls(bound)

    def exceeded(self, error: int) -> bool:
        """Return whether a clock with this maximum error (ns; -1: unknown) may be outside the tier."""
        return self.bound is not None and (error < 0 or error > self.bound)

    def __str__(self) -> str:
        """Return the bound with a unit."""
        return "off" if self.bound is None else describe_span(self.bound)


NO_TIER: Final = ClockTier()


def describe_span(nanoseconds: int) -> str:
    """Return a time in the largest unit that gives at least 1: `1.5 ms`, `100 us`."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 1000)):
        if nanoseconds >= size:
            whole, rest = divmod(nanoseconds * 1000 // size, 1000)
            return f"{whole}.{rest:03d}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{nanoseconds} ns"


@dataclass
class ClockTally:
    """Counts checkpoints signed while the clock may have been outside the tier. Times are nanoseconds."""

    tier: ClockTier
    outside: int = 0
    unknown: int = 0
    worst: int = 0
    first: int = 0
    last: int = 0

    def take(self, time: int, error: int) -> None:
        """Count a checkpoint, signed at `time`."""
        if not self.tier.exceeded(error):
            return
        self.outside += 1
        self.unknown += error < 0
        self.worst = max(self.worst, error)
        self.first = min(self.first or time, time)
        self.last = max(self.last, time)

    def __str__(self) -> str:
        """Return a sentence, empty if no checkpoint was outside."""
        if not self.outside:
            return ""
        text = f"{self.outside:,} checkpoint{' was' if self.outside == 1 else 's were'} signed while "
        if self.unknown == self.outside:
            return f"{text}it was unknown whether the clock was within {self.tier}"
        text += f"the clock was outside {self.tier}, {describe_span(self.worst)} at worst"
        return text + (f" ({self.unknown:,} of them unknown)" if self.unknown else "")
