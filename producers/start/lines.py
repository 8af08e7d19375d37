"""Requests from a file or a pipe: JSON Lines, or one JSON array; each with its number, so that errors can name it."""

import json
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.starts.accept import SIZE_LIMIT
from tradesaga.infra.starts.strict_json import StrictJsonError, check_json

ARRAY_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of a JSON array, which is read whole; lines have no such limit."""
LINE_LIMIT: Final = SIZE_LIMIT + 2
"""Bytes kept of a line: one more than a request may have, so that a longer one is refused, and its end."""


class Line(NamedTuple):
    """One request as it was given, and its number from 1."""

    number: int
    text: bytes


def read_lines(source: BinaryIO, name: str) -> Iterator[Line]:
    """Yield the requests; empty lines are skipped. Raises `CommandError` (exit 2) for a broken array."""
    number = 0
    while head := source.readline(LINE_LIMIT):
        number += 1
        text = head.strip()
        if not text.startswith(b"[") or number > 1:
            _skip_rest(head, source)
        if not text:
            continue
        if number == 1 and text.startswith(b"["):
            yield from _read_array(head + source.read(ARRAY_LIMIT), name)
            return
        yield Line(number, text)


def _skip_rest(head: bytes, source: BinaryIO) -> None:
    """Pass over what of a line is too long to be kept."""
    while head and not head.endswith(b"\n"):
        head = source.readline(LINE_LIMIT)


def _read_array(text: bytes, name: str) -> Iterator[Line]:
    if len(text) > ARRAY_LIMIT:
        raise _broken(f"the array has more than {ARRAY_LIMIT} bytes", name)
    try:
        items = check_json(text)
    except StrictJsonError as error:
        raise _broken(str(error), name) from None
    for number, item in enumerate(items, 1):
        yield Line(number, json.dumps(item).encode())


def _broken(what: str, name: str) -> CommandError:
    do = "give JSON Lines, one request a line, or one JSON array"
    return CommandError("not-json", f"the requests cannot be read: {what}", name, do, ExitCode.USAGE)
