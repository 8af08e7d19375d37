"""The files of an export, and the form of a record's line.

A line is a JSON object, written without spaces and with its members in one order, so that one record has one line:

topic, partition, offset     where the record stands
leaf                         its place in the log's Merkle tree, from 0
recorded_ms                  the broker's time, milliseconds since 1970
saga_id, seq                 its saga and its place in that saga's chain; null where it counts in none
event_type, step, event_time_ns, started_ns, context_added, error    as the audit log tells them to people
headers                      the headers, as the JSON text over which the hash goes
value, or value_base64       the payload: as text, or in base64 where it is no UTF-8
hash                         of the record, over all that the seal covers
previous                     the hash of the saga's record before, where that one is not in the export
"""

import base64
import binascii
from contextlib import suppress
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from consumers.audit.verification import Row
from infra.audit.merkle import HASH_BYTES, Subtree
from infra.clock import read_id
from infra.codec import Record

FORMAT: Final = "tradesaga-audit-export/1"
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
_ENDS: Final = frozenset({("value", "hash"), ("value_base64", "hash"), ("value", "hash", "previous"),
    ("value_base64", "hash", "previous")})  # fmt: skip
_TEXT_OR_NONE: Final = (str, type(None))
_MOST: Final = 2**63


class FormatError(ValueError):
    """A line is not of the form in which exports are written; the message says why."""


class Line(NamedTuple):
    """One record of an export."""

    row: Row
    leaf: int
    added: str | None = None
    error: str | None = None
    previous: bytes | None = None


def to_line(line: Line) -> bytes:
    """Write a record."""
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
        "context_added": line.added,
        "error": line.error,
        "headers": row.headers,
    }
    try:
        told["value"] = record.value.decode()
    except UnicodeDecodeError:
        told["value_base64"] = base64.b64encode(record.value).decode()
    told["hash"] = row.hash.hex()
    if line.previous is not None:
        told["previous"] = line.previous.hex()
    return write_line(told)


def write_line(told: dict[str, Any]) -> bytes:
    """Write one line of any of an export's files."""
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)


def read_line(text: bytes) -> dict[str, Any]:
    """Read one line; raises `FormatError` for one that `write_line` would have written otherwise."""
    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"the line is no JSON: {error}") from None
    if not isinstance(told, dict):
        raise FormatError("the line is no JSON object")
    if orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE) != text:
        raise FormatError("the line is not as exports write them: spaces, repeated members, or cut off")
    return told  # pyright: ignore[reportUnknownVariableType] - JSON


def from_line(text: bytes) -> Line:
    """Read what `to_line` wrote; raises `FormatError`."""
    told = read_line(text)
    members = tuple(told)
    if members[:14] != _MEMBERS or members[14:] not in _ENDS:
        raise FormatError(f"the line has the members {', '.join(members)[:200]}")
    topic, partition, offset, leaf, recorded, saga, seq, kind, step, time, started, added, error, headers = (
        told[name] for name in _MEMBERS
    )
    _check_types(topic, headers, partition, offset, leaf)
    for number in (recorded, time, started, seq):
        if number is not None and not (type(number) is int and -_MOST <= number < _MOST):
            raise FormatError("a number is none, or out of its range")
    for text_or_none in (kind, step, added, error):
        if type(text_or_none) not in _TEXT_OR_NONE:
            raise FormatError("a text is none")
    if recorded is None:
        raise FormatError("recorded_ms is null")
    record = Record(topic, partition, offset, recorded, None, _value(told), ())
    saga_id = read_uuid(saga) if saga is not None else None
    row = Row(record, headers, read_hash(told["hash"]), saga_id, seq, kind, step, time, started)
    return Line(row, leaf, added, error, read_hash(told["previous"]) if "previous" in told else None)


def to_proof(topic: str, partition: int, subtree: Subtree) -> bytes:
    """Write a subtree that stands for records that are not in the export."""
    return write_line(
        {"topic": topic, "partition": partition, "leaf": subtree.start, "level": subtree.level,
         "root": subtree.root.hex()}
    )  # fmt: skip


def from_proof(text: bytes) -> tuple[tuple[str, int], Subtree]:
    """Read what `to_proof` wrote, with topic and partition; raises `FormatError`."""
    told = read_line(text)
    if tuple(told) != ("topic", "partition", "leaf", "level", "root"):
        raise FormatError("the line is no proof")
    topic, partition, leaf, level, root = told.values()
    _check_types(topic, "", partition, leaf, level)
    if level >= 63:  # noqa: PLR2004 - no log has more than 2**63 leaves
        raise FormatError(f"no tree has a level {level}")
    return (topic, partition), Subtree(leaf, level, read_hash(root))


def read_hash(text: object) -> bytes:
    """Read a SHA-256 in lower-case hex; raises `FormatError`."""
    if type(text) is str and len(text) == 2 * HASH_BYTES:
        try:
            found = bytes.fromhex(text)
        except ValueError:
            found = b""
        if found.hex() == text:
            return found
    raise FormatError("a hash is none")


def read_uuid(text: object) -> UUID:
    """Read a saga's id; raises `FormatError`."""
    if type(text) is str:
        with suppress(ValueError):
            found = read_id(text)
            if str(found) == text:
                return found
    raise FormatError(f"{str(text)[:50]!r} is no saga id")


def _check_types(topic: object, headers: object, *numbers: object) -> None:
    if type(topic) is not str or type(headers) is not str:
        raise FormatError("a text is none")
    for number in numbers:
        if type(number) is not int or not 0 <= number < _MOST:
            raise FormatError("a number is none, or out of its range")
    if type(numbers[0]) is int and numbers[0] >= 2**31:
        raise FormatError(f"there is no partition {numbers[0]}")


def _value(told: dict[str, Any]) -> bytes:
    if "value" in told:
        if type(told["value"]) is not str:
            raise FormatError("value is no text")
        return told["value"].encode()
    try:
        found = base64.b64decode(told["value_base64"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise FormatError("value_base64 is no base64") from None
    if base64.b64encode(found).decode() != told["value_base64"]:
        raise FormatError("value_base64 is no base64 as it is written")
    return found
