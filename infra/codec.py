"""Records: as Kafka gives them, and as the database keeps them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import orjson

from infra.clock import read_id
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

    @property
    def size(self) -> int:
        """Give the bytes of the value and of the headers' values; runs for each record that is fetched."""
        total = len(self.value)
        for _, value in self.headers:
            if value:
                total += len(value)
        return total

    def header(self, name: str) -> bytes:
        """Give the last header of this name, empty if there is none."""
        found = b""
        for key, value in self.headers:
            if key == name:
                found = value or b""
        return found


@dataclass(slots=True)
class Outgoing:
    """A record about to be published: headers and value are fixed from here on, byte for byte.

    `text` is what `dump_headers` makes of the headers, once that is known. Not frozen: one is made for every record,
    and that would take three times as long.
    """

    topic: str
    key: str
    id: UUID
    type: str
    headers: list[Header]
    value: bytes
    text: str = ""

    @classmethod
    def of(cls, topic: str, envelope: Envelope, value: bytes) -> "Outgoing":
        """Wrap `value` for `topic`, keyed by its saga."""
        return cls(topic, envelope.saga_id, read_id(envelope.id), envelope.type, envelope.to_headers(), value)

    @classmethod
    def of_stored(cls, topic: str, headers: list[Header], value: bytes) -> "Outgoing":
        """Wrap a record that was kept, to be published again byte for byte."""
        found = dict(headers)
        ce_id = read_id(found["ce_id"].decode())
        return cls(topic, found["ce_correlationid"].decode(), ce_id, found["ce_type"].decode(), headers, value)

    @property
    def size(self) -> int:
        """Give the bytes of the value and of the headers as text."""
        return len(self.header_text) + len(self.value)

    @property
    def header_text(self) -> str:
        """Give the headers as the database keeps them; written once, for the outbox and the step's row."""
        if not self.text:
            self.text = dump_headers(self.headers)
        return self.text

    @property
    def packed(self) -> bytes:
        """Give the record as one value, which `unpack` reads."""
        return self.header_text.encode() + b"\0" + self.value


def dump_headers(headers: Collection[Header]) -> str:
    """Write headers as a JSON object; bytes that are not UTF-8 are kept, escaped."""
    try:
        told = {name: value.decode() if value else "" for name, value in headers}
    except UnicodeDecodeError:
        told = {name: (value or b"").decode("utf-8", "backslashreplace") for name, value in headers}
    return orjson.dumps(told).decode()


def load_headers(text: str) -> list[Header]:
    """Read what `dump_headers` wrote."""
    return [(name, value.encode()) for name, value in orjson.loads(text).items()]


def pack(headers: Collection[Header], value: bytes) -> bytes:
    """Keep a record as one value: headers as JSON, a zero byte (which JSON never holds), the value."""
    return dump_headers(headers).encode() + b"\0" + value


def unpack(packed: bytes) -> tuple[list[Header], bytes]:
    """Read what `pack` wrote."""
    headers, _, value = packed.partition(b"\0")
    return load_headers(headers.decode()), value
