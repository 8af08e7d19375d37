"""Records: as Kafka gives them, and as the database keeps them."""

from base64 import b64decode, b64encode
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID
from zlib import crc32

import orjson

from tradesaga.infra.clock import read_id
from tradesaga.schemas.envelope import Envelope, Header


class Record(NamedTuple):
    """One record of a topic; `recorded_ms` is the broker's time, milliseconds since 1970.

    A `tombstone` has no value at all, which is something else than an empty one. A header's name that is no UTF-8 has
    lone surrogates in the place of its bytes, as Python's `surrogateescape` does it; a header without a value has None.
    `skipped` is the number of offsets directly before it that Kafka gives to no consumer, as transactions leave them.
    It is set where the audit log is concerned, and 0 elsewhere.
    """

    topic: str
    partition: int
    offset: int
    recorded_ms: int
    key: bytes | None
    value: bytes
    headers: Sequence[Header]
    tombstone: bool = False
    skipped: int = 0

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


class RecordChecksum(NamedTuple):
    """What tells a record from another that lies at its offset after the topic was cut off and written on."""

    offset: int
    crc: int


def checksum(offset: int, recorded_ms: int, key: bytes | None, value: bytes | None) -> RecordChecksum:
    """Return what a record is recognised by: its offset, and a CRC-32 of its time, key and value."""
    return RecordChecksum(offset, crc32(value or b"", crc32(key or b"", recorded_ms & 0xFFFFFFFF)))


def record_checksum(record: Record) -> RecordChecksum:
    """Return what a record at hand is recognised by."""
    return checksum(record.offset, record.recorded_ms, record.key, record.value)


def to_record(topic: str, record: Any) -> Record:
    """Convert a record of aiokafka's; `topic` is the logical name, where aiokafka has the physical one."""
    value: bytes | None = record.value
    return Record(
        topic, record.partition, record.offset, record.timestamp, record.key, value or b"", record.headers,
        value is None,
    )  # fmt: skip


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
        """Wrap a record that was kept, to be published again byte for byte; as for names, see `publishable`."""
        headers = publishable(headers)
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
    """Write headers as JSON, from which `load_headers` reads the very same ones.

    Nearly all become one object. Headers that are repeated, have no value, or are no UTF-8 become an array of pairs of
    name and value: each is text, `{"base64": ...}` where it is no UTF-8, and null where there is none.
    """
    try:
        told = {name: value.decode() for name, value in headers}
        if len(told) == len(headers):
            return orjson.dumps(told).decode()
    except (UnicodeDecodeError, AttributeError, orjson.JSONEncodeError):
        pass  # a value, none at all, or a name that no object holds
    return orjson.dumps([(_spelled(encode_name(name)), _spelled(value)) for name, value in headers]).decode()


def load_headers(text: str) -> list[Header]:
    """Read what `dump_headers` or `dump_headers_v1` wrote; raises `ValueError`."""
    told: Any = orjson.loads(text)
    try:
        if text.startswith("{"):
            return [(name, value.encode()) for name, value in told.items()]
        return [(decode_name(_read(name)), _read(value)) for name, value in told]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"these are no headers: {error}") from None


def dump_headers_v1(headers: Collection[Header]) -> str:
    """Write headers as the hashes of format 1 cover them: the last of a name, and bytes that are no UTF-8 escaped."""
    told = {
        encode_name(name).decode("utf-8", "backslashreplace"): (value or b"").decode("utf-8", "backslashreplace")
        for name, value in headers
    }
    return orjson.dumps(told).decode()


def encode_name(name: str) -> bytes:
    """Return the bytes of a header's name."""
    return name.encode("utf-8", "surrogateescape")


def decode_name(name: bytes) -> str:
    """Return a header's name as text, from which `encode_name` gets its bytes."""
    return name.decode("utf-8", "surrogateescape")


def publishable(headers: Collection[Header]) -> list[Header]:
    """Return headers as Kafka's client can send them: bytes of a name that are no UTF-8 are escaped by a backslash."""
    return [(encode_name(name).decode("utf-8", "backslashreplace"), value) for name, value in headers]


def _spelled(raw: bytes | None) -> str | dict[str, str] | None:
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(raw).decode()}


def _read(told: Any) -> Any:
    """Read what `_spelled` wrote."""
    if told is None or isinstance(told, str):
        return told.encode() if told is not None else None
    return b64decode(told["base64"], validate=True)


def pack(headers: Collection[Header], value: bytes) -> bytes:
    """Keep a record as one value: headers as JSON, a zero byte (which JSON never holds), the value."""
    return dump_headers(headers).encode() + b"\0" + value


def unpack(packed: bytes) -> tuple[list[Header], bytes]:
    """Read what `pack` wrote."""
    headers, _, value = packed.partition(b"\0")
    return load_headers(headers.decode()), value
