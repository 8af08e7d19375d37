"""Inputs that grow: what breaks parsers, again and again, and what chance makes of the same pieces."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Final, NamedTuple

Grow = Callable[[int], bytes]
"""Gives a text of about so many bytes."""

_PIECES: Final = (
    b'"', b'\\"', b"\\\\", b"\\", b"[", b"]", b"{", b"}", b'{"a":', b'"a":1,', b",", b":", b"1", b"9", b"0.", b"e9",
    b"-", b" ", b"\n", b"\t", b"\0", b"=", b";", b"%", b"&", b"/", b"://", b"@", b"+", b"\xc3\xa9", b"\xff", b"\\u0000",
    b"\\ud800", b"null,", b'""', b"[]", b"{}", b"1,", b'"1",', b"[1],", b"TRUE", b"A/", b"00-", b"aGk", b"\n\n",
    b"\xe2\x80\x94 a b\n",
)  # fmt: skip
_HEADS: Final = (
    b"", b'"', b"[", b"{", b'{"a":[', b'{"a":"', b'{"idempotency_key":"', b'{"venue_trade_ids":[', b'{"quantity":',
    b'{"specversion":"1.0","id":"1","source":"s","type":"","data_base64":"',
    b'{"specversion":"1.0","id":"1","source":"s","type":"","data":', b"00-", b"postgresql://",
)  # fmt: skip
_TAILS: Final = (b"", b'"', b"]", b"}", b'"}', b"]}", b"@", b"\n", b'"]}')


class Shape(NamedTuple):
    """An input by its name."""

    name: str
    grow: Grow

    def __str__(self) -> str:
        """Name it in a test's report."""
        return self.name


def repeated(head: bytes, piece: bytes, tail: bytes) -> Shape:
    """Make a text of one piece, again and again."""

    def grow(size: int) -> bytes:
        return head + piece * max(1, (size - len(head) - len(tail)) // len(piece)) + tail

    return Shape(f"{head!r} + {piece!r}... + {tail!r}", grow)


def _members(size: int, last: str = "") -> bytes:
    return (
        "{" + ",".join([*(f'"k{number}":1' for number in range(size // 8)), *([last] if last else [])]) + "}"
    ).encode()


def _last_twice(size: int) -> bytes:
    return _members(size, f'"k{size // 8 - 1}":2')


def _first_twice(size: int) -> bytes:
    return _members(size, '"k0":2')


KNOWN: Final = (
    repeated(b'"', b'\\"', b""),
    repeated(b"", b'"', b""),
    repeated(b"", b"[", b""),
    repeated(b"", b'{"a":', b"1"),
    repeated(b"[", b"1,", b"1]"),
    repeated(b'{"a":"', b"\\", b'"}'),
    repeated(b"", b"9", b""),
    repeated(b'{"venue_trade_ids":[', b"1,", b"1]}"),
    repeated(b'{"a":', b"[1],", b"1}"),
    Shape("a million small members", _members),
    Shape("the last of many names twice", _last_twice),
    Shape("the first of many names twice", _first_twice),
)
"""What has broken a parser somewhere."""


def drawn(seed: int, count: int) -> Iterator[Shape]:
    """Draw shapes; a seed always gives the same."""
    chance = Random(seed)
    for _ in range(count):
        piece = b"".join(chance.choices(_PIECES, k=chance.randint(1, 4)))
        yield repeated(chance.choice(_HEADS), piece, chance.choice(_TAILS))
