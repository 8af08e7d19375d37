"""Records: as Kafka gives them, and as the database keeps them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import orjson

from schemas.envelope import Envelope, Header


class Record(NamedTuple):
    """One record of a topic; `recorded_ms` is the broker's time, milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    recorded_ms: int
    key: bytes | None
    value: bytes
    headers: Sequence[Header]

    @property
    def recorded_at(self) -> datetime:
        """Give the broker's time."""
        return datetime.fromtimestamp(self.recorded_ms / 1000, UTC)

    def header(self, name: str) -> bytes:
        """Give the last header of this name, empty if there is none."""
        found = b""
        for key, value in self.headers:
            if key == name:
                found = value or b""
        return found


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record about to be published: headers and value are fixed from here on, byte for byte."""

    topic: str
    key: str
    id: UUID
    type: str
    headers: list[Header]
    value: bytes

    @classmethod
    def of(cls, topic: str, envelope: Envelope, value: bytes) -> "Outgoing":
        """Wrap `value` for `topic`, keyed by its saga."""
        return cls(topic, envelope.saga_id, UUID(envelope.id), envelope.type, envelope.to_headers(), value)

    @classmethod
    def of_stored(cls, topic: str, headers: list[Header], value: bytes) -> "Outgoing":
        """Wrap a record that was kept, to be published again byte for byte."""
        found = dict(headers)
        return cls(
            topic, found["ce_correlationid"].decode(), UUID(found["ce_id"].decode()), found["ce_type"].decode(),
            headers, value,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Give about what the broker counts: key, headers and value, in bytes."""
        return len(self.key) + len(self.value) + sum(len(name) + len(value) + 4 for name, value in self.headers)


def dump_headers(headers: Iterable[Header]) -> str:
    """Write headers as a JSON object; bytes that are not UTF-8 are kept, escaped."""
    return orjson.dumps({name: (value or b"").decode("utf-8", "backslashreplace") for name, value in headers}).decode()


def load_headers(text: str) -> list[Header]:
    """Read what `dump_headers` wrote."""
    return [(name, value.encode()) for name, value in orjson.loads(text).items()]


def pack(headers: Iterable[Header], value: bytes) -> bytes:
    """Keep a record as one value: headers as JSON, a zero byte (which JSON never holds), the value."""
    return dump_headers(headers).encode() + b"\0" + value


def unpack(packed: bytes) -> tuple[list[Header], bytes]:
    """Read what `pack` wrote."""
    headers, _, value = packed.partition(b"\0")
    return load_headers(headers.decode()), value
