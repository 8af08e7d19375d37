"""The tolerated error of the sealing machine's clock, and the checkpoints signed beyond it."""

import re
from dataclasses import dataclass
from typing import Final

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
