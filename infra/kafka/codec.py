"""Records as Kafka delivers them and as the database stores them; their headers, checksums and packing."""

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

    A `tombstone` has no value, which is not the same as an empty one. In a header name that is not UTF-8, lone
    surrogates stand for its bytes, as with Python's `surrogateescape`; a header without a value has None. `skipped` is
    the number of offsets directly before the record that Kafka delivers to no consumer, as transactions leave them; it
    is set for the audit log only, and 0 elsewhere.
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
        """The broker's time."""
        return datetime.fromtimestamp(self.recorded_ms / 1000, UTC)

    @property
    def size(self) -> int:
        """The size of the value and the header values in bytes; computed for each fetched record."""
        total = len(self.value)
        for _, value in self.headers:
            if value:
                total += len(value)
        return total

    def header(self, name: str) -> bytes:
        """Return the value of the last header of this name, empty if there is none."""
        found = b""
        for key, value in self.headers:
            if key == name:
                found = value or b""
        return found


class RecordChecksum(NamedTuple):
    """Tells a record from another one written at its offset after the topic was truncated."""

    offset: int
    crc: int


def checksum(offset: int, recorded_ms: int, key: bytes | None, value: bytes | None) -> RecordChecksum:
    """Return a record's offset with the CRC-32 of its time, key and value."""
    return RecordChecksum(offset, crc32(value or b"", crc32(key or b"", recorded_ms & 0xFFFFFFFF)))


def record_checksum(record: Record) -> RecordChecksum:
    """Return the checksum of a record."""
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
    """A record to publish: from here on, headers and value do not change, byte for byte.

    `text` caches the headers as `dump_headers` writes them. Not frozen: one is made for every record, and a frozen
    dataclass takes three times as long.
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
        """Wrap a stored record, to be published again byte for byte; for header names see `publishable`."""
        headers = publishable(headers)
        found = dict(headers)
        ce_id = read_id(found["ce_id"].decode())
        return cls(topic, found["ce_correlationid"].decode(), ce_id, found["ce_type"].decode(), headers, value)

    @property
    def size(self) -> int:
        """The size of the value and of the headers as text, in bytes."""
        return len(self.header_text) + len(self.value)

    @property
    def header_text(self) -> str:
        """The headers as the database stores them; computed once, for the outbox and the step's row."""
        if not self.text:
            self.text = dump_headers(self.headers)
        return self.text

    @property
    def packed(self) -> bytes:
        """The record as one value, which `unpack` reads."""
        return self.header_text.encode() + b"\0" + self.value


def dump_headers(headers: Collection[Header]) -> str:
    """Return headers as JSON, from which `load_headers` reads exactly the same ones.

    Nearly all become one object. Headers that are repeated, have no value or are not UTF-8 become an array of pairs of
    name and value: each is text, `{"base64": ...}` where it is not UTF-8, and null where there is none.
    """
    try:
        texts = {name: value.decode() for name, value in headers}
        if len(texts) == len(headers):
            return orjson.dumps(texts).decode()
    except (UnicodeDecodeError, AttributeError, orjson.JSONEncodeError):
        pass  # a value that is not UTF-8 or missing, or a name that is no JSON key
    return orjson.dumps([(_to_json(encode_name(name)), _to_json(value)) for name, value in headers]).decode()


def load_headers(text: str) -> list[Header]:
    """Parse what `dump_headers` or `dump_headers_v1` returned. Raises `ValueError`."""
    loaded: Any = orjson.loads(text)
    try:
        if text.startswith("{"):
            return [(name, value.encode()) for name, value in loaded.items()]
        return [(decode_name(_from_json(name)), _from_json(value)) for name, value in loaded]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"invalid headers: {error}") from None


def dump_headers_v1(headers: Collection[Header]) -> str:
    """Return headers as hashes of format 1 cover them: the last of each name, bytes that are not UTF-8 escaped."""
    texts = {
        encode_name(name).decode("utf-8", "backslashreplace"): (value or b"").decode("utf-8", "backslashreplace")
        for name, value in headers
    }
    return orjson.dumps(texts).decode()


def encode_name(name: str) -> bytes:
    """Return the bytes of a header's name."""
    return name.encode("utf-8", "surrogateescape")


def decode_name(name: bytes) -> str:
    """Return a header's name as text, from which `encode_name` gets its bytes."""
    return name.decode("utf-8", "surrogateescape")


def publishable(headers: Collection[Header]) -> list[Header]:
    """Return headers that Kafka's client can send: bytes of a name that are not UTF-8 are escaped by a backslash."""
    return [(encode_name(name).decode("utf-8", "backslashreplace"), value) for name, value in headers]


def _to_json(raw: bytes | None) -> str | dict[str, str] | None:
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(raw).decode()}


def _from_json(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value.encode() if value is not None else None
    return b64decode(value["base64"], validate=True)


def pack(headers: Collection[Header], value: bytes) -> bytes:
    """Return a record as one value: headers as JSON, a zero byte (which JSON never contains), the value."""
    return dump_headers(headers).encode() + b"\0" + value


def unpack(packed: bytes) -> tuple[list[Header], bytes]:
    """Read what `pack` wrote."""
    headers, _, value = packed.partition(b"\0")
    return load_headers(headers.decode()), value
