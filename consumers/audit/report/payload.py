"""Payloads as they were recorded: numbers keep their digits, and nothing a stranger wrote breaks the reading."""

import json
from collections.abc import Mapping
from typing import Any, Final, cast

import orjson

DEPTH: Final = 6
"""Levels below which a value is shown as it is written."""


def read_text(value: bytes) -> str | None:
    """Return the JSON of a payload as it is written; None where it is none, as of one that is sealed or damaged."""
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return value.decode()


def read_members(text: str | None) -> dict[str, Any]:
    """Return the members of a JSON object, its numbers as text; nothing for anything else."""
    try:
        found = json.loads(text or "null", parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def list_fields(text: str) -> list[tuple[str, str]]:
    """Return what a JSON value says, a line a leaf: `fill.price`, `1.0875`."""
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


def text_of(members: Mapping[str, Any], name: str) -> str:
    """Return a member that is text, or a number; empty where there is none."""
    found = members.get(name)
    return found if isinstance(found, str) else ""
