"""JSON from strangers: bounded before it is parsed, and refused where parsers disagree about what it says."""

import json
from typing import Any, Final, NoReturn

DEPTH: Final = 20
"""Levels of nesting at most; ours need two."""
_OPEN: Final = frozenset(b"[{")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


class StrictJsonError(ValueError):
    """The text is not JSON that every parser would read alike; the message says why."""


def check_json(text: bytes, depth: int = DEPTH) -> Any:
    """Parse and give the value; raises `StrictJsonError` for deep nesting, NaN, a name given twice, or bad UTF-8.

    Read amounts from the text, by a schema: the value given here holds numbers as floats.
    """
    _check_nesting(text, depth)
    try:
        return json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise StrictJsonError(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except ValueError as error:
        raise StrictJsonError(str(error)) from None


def _check_nesting(text: bytes, depth: int) -> None:
    """Refuse brackets outside of strings that go deeper than `depth`, before a parser recurses into them.

    Each step is one pass: without escaped backslashes, and then without escaped quotes, every second part between
    quotes is a string. What follows a backslash outside of a string may be counted wrongly; no parser gets that far.
    """
    plain = text.replace(rb"\\", b"").replace(rb"\"", b"")
    level = 0
    for byte in b"".join(plain.split(b'"')[::2]).translate(None, _NO_BRACKETS):
        level += 1 if byte in _OPEN else -1
        if level > depth:
            raise StrictJsonError(f"it is nested deeper than {depth} levels")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise StrictJsonError(f"{name[:64]!r} is given twice")
        seen.add(name)
    return found


def _refuse(constant: str) -> NoReturn:
    raise StrictJsonError(f"{constant} is no JSON number")
