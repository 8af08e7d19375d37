"""How far the machine's clock may be off, as its own synchronisation says."""

import ctypes
import ctypes.util
import subprocess
from dataclasses import dataclass
from typing import Final

_UNSYNCHRONISED: Final = 0x0040
"""STA_UNSYNC of adjtimex(2)."""
_CHRONY_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class ClockEvidence:
    """Who keeps the clock, and the bound of its error in nanoseconds; -1 where nobody can tell."""

    source: str
    error: int


UNKNOWN: Final = ClockEvidence("unknown", -1)


def read_clock() -> ClockEvidence:
    """Ask chrony, if it runs here, or else the kernel."""
    return _ask_chrony() or _ask_kernel()


def read_tracking(text: str) -> ClockEvidence | None:
    """Read what `chronyc -c tracking` prints: the bound is |offset| + root dispersion + half the root delay."""
    fields = text.strip().split(",")
    try:
        offset, delay, dispersion = float(fields[4]), float(fields[10]), float(fields[11])
    except (IndexError, ValueError):
        return None
    if fields[-1] == "Not synchronised":
        return ClockEvidence("chrony", -1)
    return ClockEvidence("chrony", round((abs(offset) + dispersion + delay / 2) * 1e9))


def _ask_chrony() -> ClockEvidence | None:
    try:
        told = subprocess.run(
            ["chronyc", "-c", "tracking"],  # noqa: S607 - wherever the machine has it
            capture_output=True,
            text=True,
            timeout=_CHRONY_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return read_tracking(told.stdout) if told.returncode == 0 else None


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
