"""Strict parsing of untrusted JSON: nesting is limited, and whatever parsers read differently is rejected."""

import json
from typing import Any, Final, NoReturn

DEPTH: Final = 20
"""Maximum levels of nesting; our messages need two."""
_OPEN: Final = frozenset(b"[{")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


class StrictJsonError(ValueError):
    """The text is not JSON that every parser reads alike; the message says why."""


def check_json(text: bytes, depth: int = DEPTH) -> Any:
    """Parse JSON. Raises `StrictJsonError` for deep nesting, NaN, a repeated name or invalid UTF-8.

    Do not take amounts from the returned value, whose numbers are floats: parse the text with a schema.
    """
    _check_nesting(text, depth)
    try:
        return json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_reject_constant)
    except UnicodeDecodeError as error:
        raise StrictJsonError(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except ValueError as error:
        raise StrictJsonError(str(error)) from None


def _check_nesting(text: bytes, depth: int) -> None:
    """Reject brackets outside strings that are nested deeper than `depth`, before a parser recurses into them.

    Each step is one pass: once escaped backslashes and then escaped quotes are removed, every second part between
    quotes is a string. Brackets after a backslash outside a string may be counted wrongly; no parser accepts that text.
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
            raise StrictJsonError(f"{name[:64]!r} is repeated")
        seen.add(name)
    return found


def _reject_constant(constant: str) -> NoReturn:
    raise StrictJsonError(f"{constant} is not a JSON number")
