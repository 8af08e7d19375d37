"""Formats times, durations and values for people, and escapes untrusted text for terminals."""

import json
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

import orjson

_SECOND: Final = 10**9

_MINUTE: Final = 60 * _SECOND

_HOUR: Final = 60 * _MINUTE

_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

LONGEST: Final = 400


def clock(nanoseconds: int, digits: int = 3) -> str:
    """Return the time of day in UTC with `digits` decimals, truncated: `14:03:07.120`."""
    seconds, rest = divmod(nanoseconds, _SECOND)
    return f"{_moment(seconds):%H:%M:%S}" + (f".{rest:09d}"[: digits + 1] if digits else "")


def day(nanoseconds: int) -> str:
    """Return the date in UTC: `2026-11-23`."""
    return f"{_moment(nanoseconds // _SECOND):%Y-%m-%d}"


def stamp(nanoseconds: int) -> str:
    """Return date and time with nanoseconds."""
    return f"{day(nanoseconds)} {clock(nanoseconds, 9)}Z"


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def span(nanoseconds: int) -> str:
    """Return a duration with about three digits: `84.2 ms`, `2 min 3 s`."""
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


def listed(items: Sequence[str]) -> str:
    """Return a list in words: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def harmless(text: str, longest: int = LONGEST) -> str:
    """Escape control and bidirectional characters, and truncate to `longest` characters."""
    shown = "".join(
        f"\\u{{{ord(each):x}}}" if unicodedata.category(each) in _HIDDEN else each for each in text[:longest]
    )
    return shown if len(text) <= longest else f"{shown}… ({len(text) - longest:,} more)"


DEPTH: Final = 6
"""Levels of nesting that are listed; deeper values are shown as JSON."""


def read_text(value: bytes) -> str | None:
    """Return a payload that is JSON as text; None for any other, such as an encrypted or damaged one."""
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return value.decode()


def read_members(text: str | None) -> dict[str, Any]:
    """Return the members of a JSON object with numbers as text; empty for anything else."""
    try:
        found = json.loads(text or "null", parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def list_fields(text: str) -> list[tuple[str, str]]:
    """Return path and text of each leaf of a JSON value: `fill.price`, `1.0875`."""
    try:
        found = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return [("", text)]
    lines: list[tuple[str, str]] = []
    _collect(lines, "", found, DEPTH)
    return lines


def _collect(lines: list[tuple[str, str]], path: str, value: Any, depth: int) -> None:
    if isinstance(value, dict) and value and depth:
        for name, member in cast("dict[str, Any]", value).items():
            _collect(lines, f"{path}.{name}" if path else name, member, depth - 1)
    else:
        lines.append((path, _leaf(value)))


def _leaf(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "(nested too deep to be shown)"
