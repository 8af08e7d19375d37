"""JSON from strangers: bounded before it is parsed, and refused where parsers disagree about what it says."""

import json
import re
from typing import Any, Final, NoReturn

DEPTH: Final = 20
"""Levels of nesting at most; ours need two."""
_OPEN, _CLOSE = b"[{", b"]}"
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


class StrictJsonError(ValueError):
    """The text is not JSON that every parser would read alike; the message says why."""


def check_json(text: bytes, depth: int = DEPTH) -> Any:
    """Parse and give the value; raises `StrictJsonError` for deep nesting, NaN, a name given twice, or bad UTF-8.

    Read amounts from the text, by a schema: the value given here holds numbers as floats.
    """
    if _nesting(text) > depth:
        raise StrictJsonError(f"it is nested deeper than {depth} levels")
    try:
        return json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise StrictJsonError(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except ValueError as error:
        raise StrictJsonError(str(error)) from None


def _nesting(text: bytes) -> int:
    """Give the deepest level that brackets outside of strings reach."""
    deepest = level = 0
    for byte in _STRING.sub(b"", text):
        level += (byte in _OPEN) - (byte in _CLOSE)
        deepest = max(deepest, level)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise StrictJsonError(f"{twice[:64]!r} is given twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise StrictJsonError(f"{constant} is no JSON number")
