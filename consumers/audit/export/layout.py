"""The files of an export, and the format of their lines.

A line is a JSON object without spaces and with a fixed order of members, so that a record has exactly one encoding:

topic, partition, offset     the record's position
leaf                         its index in the log's Merkle tree, from 0
recorded_ms                  the broker's time, milliseconds since 1970
saga_id, seq                 its saga and its number in that saga's chain; null if it is in none
event_type, step, event_time_ns, started_ns, context_added, error    the columns of the audit log
headers                      the headers as JSON text: an object, or pairs of name and value where that cannot hold them
key, or key_base64           the key, null if there is none; only if the hash is of format 2
skipped                      the number of offsets before it that Kafka gives to no consumer; left out if there are none
value, or value_base64       the payload as text, or in base64 if it is not UTF-8; null if there is none
hash                         the record's hash, which the seal covers
previous                     the hash of the saga's previous record if that one is not in the export
"""

import base64
import binascii
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from tradesaga.consumers.audit.log.rows import Row
from tradesaga.consumers.saga_log.chain import FORMAT as HASH_FORMAT
from tradesaga.consumers.saga_log.chain import StoredBytes, format_of, read_row
from tradesaga.consumers.saga_log.store import milliseconds
from tradesaga.infra.audit_log.merkle import HASH_BYTES, Subtree
from tradesaga.infra.clock import read_id

FORMAT: Final = "tradesaga-audit-export/2"
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.note"
EVENTS: Final = "events.jsonl"
PARQUET: Final = "events.parquet"
SAGAS: Final = "sagas.jsonl"
ORDERS: Final = "orders.csv"
CHECKPOINTS: Final = "checkpoints.jsonl"
PROOFS: Final = "proofs.jsonl"
ACTIONS: Final = "actions.jsonl"
KEYS: Final = "keys.txt"
README: Final = "README.md"
SCHEMAS: Final = "schemas"

_MEMBERS: Final = (
    "topic", "partition", "offset", "leaf", "recorded_ms", "saga_id", "seq", "event_type", "step", "event_time_ns",
    "started_ns", "context_added", "error", "headers",
)  # fmt: skip
_SHAPES: Final = frozenset(
    (*_MEMBERS, *key, *skipped, value, "hash", *previous)
    for key in ((), ("key",), ("key_base64",))
    for skipped in ((), ("skipped",))
    for value in ("value", "value_base64")
    for previous in ((), ("previous",))
)
_TYPES: Final = (
    str, int, int, int, int, str | None, int | None, str | None, str | None, int | None, int | None, str | None,
    str | None, str,
)  # fmt: skip
_MOST: Final = 2**63
_PARTITIONS: Final = 2**31


class FormatError(ValueError):
    """A line does not have the format of exports; the message says why."""


class Line(NamedTuple):
    """A record of an export with its leaf."""

    row: Row
    leaf: int
    previous: bytes | None = None


def to_line(line: Line) -> bytes:
    """Return a record's line."""
    row, record = line.row, line.row.record
    told: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "leaf": line.leaf,
        "recorded_ms": record.recorded_ms,
        "saga_id": str(row.saga_id) if row.saga_id is not None else None,
        "seq": row.seq,
        "event_type": row.event_type,
        "step": row.step,
        "event_time_ns": row.time,
        "started_ns": row.started,
        "context_added": row.added,
        "error": row.error,
        "headers": row.stored.headers,
    }
    if format_of(row.hash) == HASH_FORMAT:
        _put(told, "key", record.key)
        if record.skipped:
            told["skipped"] = record.skipped
    _put(told, "value", None if record.tombstone else record.value)
    told["hash"] = row.hash.hex()
    if line.previous is not None:
        told["previous"] = line.previous.hex()
    return write_line(told)


def _put(told: dict[str, Any], member: str, raw: bytes | None) -> None:
    """Set a member to bytes as text, under another name in base64 if they are not UTF-8, or to null."""
    try:
        told[member] = raw.decode() if raw is not None else None
    except UnicodeDecodeError:
        told[f"{member}_base64"] = base64.b64encode(raw or b"").decode()


def write_line(told: dict[str, Any]) -> bytes:
    """Return a line of any of an export's files."""
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)


def read_line(text: bytes) -> dict[str, Any]:
    """Parse a line. Raises `FormatError` for one that `write_line` would have written differently."""
    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"the line is not JSON: {error}") from None
    if not isinstance(told, dict):
        raise FormatError("the line is not a JSON object")
    if orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE) != text:
        raise FormatError("the line is not as exports write them: spaces, repeated members, or cut off")
    return told  # pyright: ignore[reportUnknownVariableType] - JSON


def from_line(text: bytes) -> Line:
    """Parse what `to_line` returned. Raises `FormatError`."""
    told = read_line(text)
    if tuple(told) not in _SHAPES:
        raise FormatError(f"the line has the members {', '.join(told)[:200]}")
    values = list(told.values())[: len(_MEMBERS)]
    if not _are_ours(tuple(map(type, values))):
        raise FormatError("a member of the line is of another type")
    topic, partition, offset, leaf, recorded, saga, seq, kind, step, time, started, added, error, headers = values
    if not (0 <= partition < _PARTITIONS and 0 <= offset < _MOST and 0 <= leaf < _MOST):
        raise FormatError("partition, offset or leaf is out of its range")
    if not (
        min(recorded, time or 0, started or 0, seq or 0) >= -_MOST
        and max(recorded, time or 0, started or 0, seq or 0) < _MOST
    ):
        raise FormatError("a number is out of its range")
    found = read_record_hash(told["hash"])
    form, keyed = format_of(found), "key" in told or "key_base64" in told
    value = _bytes(told, "value")
    skipped = told.get("skipped")
    if keyed != (form == HASH_FORMAT) or (not keyed and (value is None or skipped is not None)):
        raise FormatError(f"the line has other members than one whose hash is of format {form}")
    if skipped is not None and not (type(skipped) is int and 0 < skipped <= offset):
        raise FormatError("skipped is not a number of offsets before the record")
    stored = StoredBytes(_bytes(told, "key") if keyed else None, headers, value, found, skipped)
    saga_id = read_uuid(saga) if saga is not None else None
    record = read_row((topic, partition, offset, recorded), stored)
    row = Row(record, stored, saga_id, seq, kind, step, time, started, added, error)
    return Line(row, leaf, read_record_hash(told["previous"]) if "previous" in told else None)


@lru_cache(maxsize=256)
def _are_ours(types: tuple[type, ...]) -> bool:
    """Return whether these are the types of a line's members; cached, since few combinations occur."""
    return all(issubclass(found, type_) and found is not bool for found, type_ in zip(types, _TYPES, strict=True))


def to_proof(topic: str, partition: int, subtree: Subtree) -> bytes:
    """Return the line of a subtree of records that are not in the export."""
    return write_line(
        {"topic": topic, "partition": partition, "leaf": subtree.start, "level": subtree.level,
         "root": subtree.root.hex()}
    )  # fmt: skip


def from_proof(text: bytes) -> tuple[tuple[str, int], Subtree]:
    """Parse what `to_proof` returned into topic and partition, and subtree. Raises `FormatError`."""
    told = read_line(text)
    if tuple(told) != ("topic", "partition", "leaf", "level", "root"):
        raise FormatError("the line is not a proof")
    topic, partition, leaf, level, root = told.values()
    _check_types(topic, "", partition, leaf, level)
    if level >= 63:  # noqa: PLR2004 - no log has more than 2**63 leaves
        raise FormatError(f"no tree has a level {level}")
    return (topic, partition), Subtree(leaf, level, read_hash(root))


def read_hash(text: object) -> bytes:
    """Parse a SHA-256 in lower-case hex. Raises `FormatError`."""
    if type(text) is str and len(text) == 2 * HASH_BYTES:
        try:
            found = bytes.fromhex(text)
        except ValueError:
            found = b""
        if found.hex() == text:
            return found
    raise FormatError("a hash is invalid")


def read_record_hash(text: object) -> bytes:
    """Parse the hash of a record of either format in hex. Raises `FormatError`."""
    if type(text) is str and len(text) == 2 * HASH_BYTES + 2 and text.startswith("02"):
        return b"\2" + read_hash(text[2:])
    return read_hash(text)


def read_uuid(text: object) -> UUID:
    """Parse a saga's id. Raises `FormatError`."""
    try:
        found = read_id(text) if type(text) is str else None
    except ValueError:
        found = None
    if found is None or str(found) != text:
        raise FormatError(f"{str(text)[:50]!r} is not a saga id")
    return found


def _check_types(topic: object, headers: object, *numbers: object) -> None:
    if type(topic) is not str or type(headers) is not str:
        raise FormatError("a text is invalid")
    for number in numbers:
        if type(number) is not int or not 0 <= number < _MOST:
            raise FormatError("a number is invalid or out of range")
    if type(numbers[0]) is int and numbers[0] >= _PARTITIONS:
        raise FormatError(f"there is no partition {numbers[0]}")


def _bytes(told: dict[str, Any], member: str) -> bytes | None:
    """Return the bytes that `_put` set. Raises `FormatError`."""
    if member in told:
        text = told[member]
        if text is not None and type(text) is not str:
            raise FormatError(f"{member} is not text")
        return text.encode() if text is not None else None
    encoded = told[f"{member}_base64"]
    try:
        found = base64.b64decode(encoded, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise FormatError(f"{member}_base64 is not base64") from None
    if base64.b64encode(found).decode() != encoded:
        raise FormatError(f"{member}_base64 is not canonical base64")
    return found


_SAGA_MEMBERS: Final = (
    "topic", "partition", "saga_id", "name", "version", "state", "current_step_index", "completed_steps",
    "compensated_steps", "context", "deadline_ms", "request_hash", "created_ms", "updated_ms", "seq", "head",
)  # fmt: skip


class SagaHead(NamedTuple):
    """The verified part of a saga's line: its log, the number of its records, and the hash of the last one."""

    place: tuple[str, int]
    saga_id: UUID
    seq: int
    head: bytes


def describe_saga(place: tuple[str, int], row: asyncpg.Record) -> dict[str, Any]:
    """Return a saga's line; its context is the stored JSON text."""
    told = {
        **dict(row),
        "topic": place[0],
        "partition": place[1],
        "saga_id": str(row["saga_id"]),
        "completed_steps": orjson.loads(row["completed_steps"]),
        "compensated_steps": orjson.loads(row["compensated_steps"]),
        "deadline_ms": _when(row["deadline"]),
        "created_ms": _when(row["created_at"]),
        "updated_ms": _when(row["updated_at"]),
        "head": row["head"].hex(),
    }
    return {member: told[member] for member in _SAGA_MEMBERS}


def read_saga_line(text: bytes) -> SagaHead:
    """Parse a saga's line. Raises `FormatError`."""
    told = read_line(text)
    if tuple(told) != _SAGA_MEMBERS:
        raise FormatError("the line is not a saga")
    topic, partition, seq = told["topic"], told["partition"], told["seq"]
    if type(topic) is not str or type(partition) is not int or type(seq) is not int:
        raise FormatError("a member of the saga's line is invalid")
    return SagaHead((topic, partition), read_uuid(told["saga_id"]), seq, read_record_hash(told["head"]))


def _when(at: datetime | None) -> int | None:
    return milliseconds(at) if at is not None else None
