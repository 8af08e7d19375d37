"""Dead letters: unreadable records, copied byte for byte to `<saga>.dead-letters` with the error in headers."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from tradesaga.infra.clock import format_time, new_id
from tradesaga.infra.kafka.codec import Outgoing, Record, publishable
from tradesaga.schemas.envelope import ID, SAGA_ID, TYPE, Header
from tradesaga.schemas.topics import dead_letters_topic

UNREADABLE: Final = "unreadable"
CONTRADICTION: Final = "contradiction"
"""The kind of a record that contradicts the reader's database."""
READING_ERRORS: Final = (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError)
"""Errors of parsing a record or of a pure function of it; never errors of the database or of Kafka."""
SIZE_LIMIT: Final = 1_000_000
"""Bytes that fit the topic's `max.message.bytes` together with the added headers."""
_REASON_LIMIT: Final = 1000
_KEY_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True)
class RecordFault:
    """What is wrong with a record: `kind` is a metric label, `reason` a sentence, `handler` who found it."""

    kind: str
    reason: str
    handler: str = ""
    attempts: int = 1


def dead_letter(saga: str, group: str, record: Record, fault: RecordFault, now: int) -> Outgoing:
    """Return a copy of a record for the dead letters; `now` is nanoseconds since 1970.

    The copy keeps key, headers and value; bytes of header names that are not UTF-8 are escaped. A record too large for
    the added headers loses its own headers and its value, and gets `ts_dlt_value_bytes`: the original is at
    `ts_dlt_topic`, `_partition` and `_offset`. Very long keys are truncated. `ts_dlt_tombstone` marks a record without
    a value.
    """
    headers = [*publishable(record.headers), *_described(group, record, fault, now)]
    value = record.value
    if len(value) + _KEY_LIMIT + sum(len(name) + len(text or b"") + 8 for name, text in headers) > SIZE_LIMIT:
        headers = [*_described(group, record, fault, now), ("ts_dlt_value_bytes", str(len(value)).encode())]
        value = b""
    ce_type = record.header(TYPE).decode("utf-8", "replace").replace("\0", "")
    return Outgoing(dead_letters_topic(saga), _key(record), _id(record), ce_type or UNREADABLE, headers, value)


def _described(group: str, record: Record, fault: RecordFault, now: int) -> list[Header]:
    texts = {
        "ts_dlt_topic": record.topic,
        "ts_dlt_partition": str(record.partition),
        "ts_dlt_offset": str(record.offset),
        "ts_dlt_timestamp": str(record.recorded_ms),
        "ts_dlt_group": group,
        "ts_dlt_attempts": str(fault.attempts),
        "ts_dlt_error_type": fault.kind,
        "ts_dlt_error_message": fault.reason[:_REASON_LIMIT],
        "ts_dlt_failed_at": format_time(now),
        "ts_dlt_handler": fault.handler or group,
    }
    if record.tombstone:
        texts["ts_dlt_tombstone"] = "true"
    return [(name, text.encode("utf-8", "replace")) for name, text in texts.items()]


def _key(record: Record) -> str:
    key = record.key or record.header(SAGA_ID)
    return key.decode("utf-8", "backslashreplace").replace("\0", "\\0")[:_KEY_LIMIT]


def _id(record: Record) -> UUID:
    try:
        return UUID(record.header(ID).decode())
    except ValueError:
        return new_id()
