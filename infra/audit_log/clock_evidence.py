"""The maximum error of the machine's clock, as its synchronisation reports it."""

import ctypes
import ctypes.util
import math
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tradesaga.infra.audit_log.precision_time import PMC_COMMANDS, parse_pmc_output

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
