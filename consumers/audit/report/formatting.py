"""Times, spans and numbers as people write them, and strangers' text made harmless to a terminal."""

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

_SECOND: Final = 10**9
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE
_NUMBERS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
LONGEST: Final = 400


def clock(nanoseconds: int, digits: int = 3) -> str:
    """Write the time of day in UTC with that many decimals, cut off, not rounded: `14:03:07.120`."""
    seconds, rest = divmod(nanoseconds, _SECOND)
    return f"{_moment(seconds):%H:%M:%S}" + (f".{rest:09d}"[: digits + 1] if digits else "")


def day(nanoseconds: int) -> str:
    """Write the day in UTC: `2026-11-23`."""
    return f"{_moment(nanoseconds // _SECOND):%Y-%m-%d}"


def stamp(nanoseconds: int) -> str:
    """Write day and time with nanoseconds."""
    return f"{day(nanoseconds)} {clock(nanoseconds, 9)}Z"


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def span(nanoseconds: int) -> str:
    """Write how long something took, to three digits or so: `84.2 ms`, `2 min 3 s`."""
    if nanoseconds < 0:
        return f"-{span(-nanoseconds)}"
    if nanoseconds >= _HOUR:
        return f"{nanoseconds // _HOUR} h {nanoseconds % _HOUR // _MINUTE} min"
    if nanoseconds >= _MINUTE:
        return f"{nanoseconds // _MINUTE} min {nanoseconds % _MINUTE // _SECOND} s"
    for unit, size in (("s", _SECOND), ("ms", 10**6), ("\N{MICRO SIGN}s", 1000)):
        if nanoseconds >= size:
            whole = nanoseconds / size
            text = f"{whole:.0f}" if whole >= 99.5 else f"{whole:.1f}" if whole >= 9.95 else f"{whole:.2f}"  # noqa: PLR2004 - three digits
            return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"
    return f"{nanoseconds} ns"


def count(number: int, what: str, many: str = "") -> str:
    """Write a number with its noun: `one step`, `three steps`, `12 steps`."""
    word = _NUMBERS[number] if number < len(_NUMBERS) else f"{number:,}"
    return f"{word} {what if number == 1 else many or what + 's'}"


def listed(items: Sequence[str]) -> str:
    """Write a list: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def harmless(text: str, longest: int = LONGEST) -> str:
    """Show what would steer a terminal or turn the direction of writing; cut what is longer than anybody reads."""
    shown = "".join(
        f"\\u{{{ord(each):x}}}" if unicodedata.category(each) in _HIDDEN else each for each in text[:longest]
    )
    return shown if len(text) <= longest else f"{shown}… ({len(text) - longest:,} more)"
