"""Requests from files and pipes: both shapes, numbered; a slow pipe gives what it has."""

import io
import os
from collections.abc import Iterator

import pytest

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.starts.accept import SIZE_LIMIT
from tradesaga.producers.start.lines import Line, batches, read_lines


def read(text: bytes) -> list[Line]:
    """Read requests from memory."""
    return list(read_lines(io.BytesIO(text), "memory"))


def test_lines_keep_their_numbers() -> None:
    """Empty lines are passed over but counted, and the last line needs no end."""
    assert read(b'{"a": 1}\n\n  \n{"b": 2}\r\n{"c": 3}') == [(1, b'{"a": 1}'), (4, b'{"b": 2}'), (5, b'{"c": 3}')]
    assert read(b"") == []


def test_a_line_too_long_is_one_request() -> None:
    """So much of it is kept that it is refused for its size, and the lines behind it keep their numbers."""
    long, short, last = read(b"x" * 300_000 + b"\n{}\n" + b"y" * 70_000)
    assert (long.number, short, last.number) == (1, (2, b"{}"), 3)
    assert SIZE_LIMIT < len(long.text) == len(last.text) <= SIZE_LIMIT + 2


def test_an_array_is_numbered_by_its_items() -> None:
    """An array may span lines; each item is given as JSON of its own, strings untouched."""
    assert read(b'[{"a": "1.10"},\n "x",\n {"b": null}]') == [
        (1, b'{"a": "1.10"}'), (2, b'"x"'), (3, b'{"b": null}'),
    ]  # fmt: skip
    assert read(b"[]") == []


@pytest.mark.parametrize("text", [b"[", b"[1, 2", b'[{"a": 1, "a": 2}]', b"[NaN]"])
def test_a_broken_array_is_misuse(text: bytes) -> None:
    """Nothing of a broken array is started: it is not known what was meant."""
    with pytest.raises(CommandError, match="JSON Lines") as raised:
        read(text)
    assert (raised.value.code, raised.value.exit_code) == ("not-json", ExitCode.USAGE)


async def test_a_slow_pipe_gives_what_it_has() -> None:
    """What has been written is given at once, the rest when it comes, in batches no larger than asked for."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source:
        stream = batches(read_lines(source, "pipe"), 2)
        os.write(writing, b"1\n")
        assert await anext(stream) == [(1, b"1")]
        os.write(writing, b"2\n3\n4\n")
        os.close(writing)
        rest = [batch async for batch in stream]
    assert [line.number for batch in rest for line in batch] == [2, 3, 4]
    assert max(len(batch) for batch in rest) <= 2


async def test_what_reading_raises_comes_after_what_was_read() -> None:
    """The items before the failure are given, then the failure."""

    def failing() -> Iterator[int]:
        yield from range(5)
        raise CommandError("x", "it broke", "here", "mend it")

    taken: list[int] = []

    async def take() -> None:
        async for batch in batches(failing(), 10):
            taken.extend(batch)

    with pytest.raises(CommandError, match="it broke"):
        await take()
    assert taken == [0, 1, 2, 3, 4]
