"""Records gone wrong in all the ways that writers, clients and networks have, chosen by a seed."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, cast

from tradesaga.infra.kafka.codec import Record
from tradesaga.schemas.envelope import Header

HOSTILE: Final = (
    b"", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"null", b"NaN", b"-1", b"0", b"1e400", b"9" * 5000, b"[" * 5000,
    b"{" * 200, b'{"a":' * 300 + b"1" + b"}" * 300, b"[]", b'""', b'"\\ud800"', b'"\\u0000"', b"\xef\xbb\xbf{}",
    "\N{CYRILLIC SMALL LETTER A}\u202e\u2028".encode(), b"' OR 1=1 --", b"%s%n", b"../../etc/passwd",
    b"\r\nSet-Cookie: a=b",
    b"2147483648", b"-9223372036854775809", b"1" * 64, b"x" * 70_000, b"true", b"0x10", b" 1 ", b"1_000",
)  # fmt: skip
"""What breaks parsers: bytes that are no UTF-8 or no JSON, numbers out of range, depth, length, control characters."""


@dataclass(frozen=True, slots=True)
class Mutator:
    """Changes a record in one to three places; `others` are values that other records have under the same header."""

    random: Random
    others: dict[str, list[bytes]]

    def mutate(self, record: Record) -> Record:
        """Give a record that is, most likely, no longer a good one."""
        for _ in range(self.random.choice((1, 1, 2, 3))):
            record = self.random.choice(_WAYS)(self, record)
        return record

    def bytes(self, good: bytes) -> bytes:
        """Spoil some bytes."""
        chance = self.random
        if chance.random() < 0.35 or not good:
            return chance.choice(HOSTILE)
        at = chance.randrange(len(good))
        match chance.randrange(5):
            case 0:
                return good[:at]
            case 1:
                return good[:at] + bytes([chance.randrange(256)]) + good[at + 1 :]
            case 2:
                return good[:at] + chance.choice(HOSTILE)[:500] + good[at:]
            case 3:
                return good[:at] + good[at:] * 2
            case _:
                return good[at:] + good[:at]


def _value(by: Mutator, record: Record) -> Record:
    return record._replace(value=by.bytes(record.value))


def _header(by: Mutator, record: Record) -> Record:
    headers = list(record.headers)
    if headers:
        at = by.random.randrange(len(headers))
        headers[at] = (headers[at][0], by.bytes(headers[at][1] or b""))
    return record._replace(headers=headers)


def _other_header(by: Mutator, record: Record) -> Record:
    """Give a header what another record has there: another type, step, round, saga or request."""
    headers = list(record.headers)
    if headers:
        at = by.random.randrange(len(headers))
        name = headers[at][0]
        headers[at] = (name, by.random.choice(by.others.get(name) or [b""]))
    return record._replace(headers=headers)


def _drop(by: Mutator, record: Record) -> Record:
    headers = list(record.headers)
    if headers:
        headers.pop(by.random.randrange(len(headers)))
    return record._replace(headers=headers)


def _double(by: Mutator, record: Record) -> Record:
    headers = list(record.headers)
    if headers:
        name, value = by.random.choice(headers)
        headers.insert(by.random.randrange(len(headers) + 1), (name, by.bytes(value or b"")))
    return record._replace(headers=headers)


def _add(by: Mutator, record: Record) -> Record:
    name = by.random.choice(
        ("", "\0", "ts_context", "ts_round", "ts_attempt", "traceparent", "ce_expirytime", "x" * 300)
    )
    return record._replace(headers=[*record.headers, (name, by.random.choice(HOSTILE))])


def _hollow(by: Mutator, record: Record) -> Record:
    """Kafka knows headers without a value, and so do Java's clients."""
    headers = list(record.headers)
    if headers:
        at = by.random.randrange(len(headers))
        headers[at] = cast("Header", (headers[at][0], None))
    return record._replace(headers=headers)


def _key(by: Mutator, record: Record) -> Record:
    return record._replace(key=by.random.choice((None, b"", b"\xff", b"k" * 5000, by.bytes(record.key or b""))))


def _bare(by: Mutator, record: Record) -> Record:
    return record._replace(headers=[])


_WAYS: Final[tuple[Callable[[Mutator, Record], Record], ...]] = (
    _value, _value, _value, _header, _header, _header, _other_header, _other_header, _other_header, _drop, _double,
    _add, _hollow, _key, _bare,
)  # fmt: skip
