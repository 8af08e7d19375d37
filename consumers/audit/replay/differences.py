"""Compares replayed sagas and records with the database, field by field."""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from tradesaga.consumers.audit.log.log_check import Head
from tradesaga.consumers.saga_log.chain import FORMAT, link_as, stored_skip
from tradesaga.consumers.saga_log.fold import FoldResult, describe
from tradesaga.consumers.saga_log.tracked_saga import SagaSnapshot
from tradesaga.infra.kafka.codec import Record, dump_headers, dump_headers_v1

FIELDS: Final = (
    "offset", "recorded_ms", "key", "headers", "value", "event_type", "step_name", "event_time", "started", "saga_id",
    "seq", "hash", "context_added", "error", "skipped",
)  # fmt: skip
"""The compared columns, in the order of the rows, after topic and partition."""
_COMPARED: Final = slice(2, 2 + len(FIELDS))
SAID: Final = FIELDS[:9]
"""The columns that depend on the record alone."""
_STATE: Final = frozenset({"state", "status"})
"""Fields that depend on the saga's definition."""
_HASHES: Final = frozenset({32, 33})
"""The lengths of hashes in bytes."""
_NULLABLE: Final = frozenset({"key", "value"})
"""Fields of which null differs from empty."""
_SHOWN: Final = 200


class Difference(NamedTuple):
    """A field of a saga or record in which topics and database differ."""

    where: str
    field: str
    topics: str
    database: str


def compare_sagas(where: str, replayed: SagaSnapshot | None, stored: SagaSnapshot | str | None) -> Iterator[Difference]:
    """Compare a replayed saga with its row, or with the reason why the row cannot be parsed."""
    if replayed == stored:
        return
    if replayed is None or stored is None or isinstance(stored, str):
        yield Difference(where, "row", _there(replayed), _there(stored))
        return
    for field in SagaSnapshot._fields:
        mine, theirs = getattr(replayed, field), getattr(stored, field)
        if mine == theirs or field == "sealed" or (stored.sealed and field in _STATE):
            continue
        # The saga log publishes a deadline before it reads it back; the topic may not have that record yet.
        if field == "deadline_pending" and mine and not theirs:
            continue
        yield Difference(where, field, format_value(mine), format_value(theirs))


def compare_rows(outcome: FoldResult, row: asyncpg.Record | None) -> Iterable[Difference]:
    """Compare the fold's entry for a record with its row."""
    record, tracked, entry = outcome[:3]
    headers, event_type, step, time, started, hash_, seq, added, error, form = entry
    saga_id = tracked.saga_id if tracked is not None else None
    expected = (
        record.offset, record.recorded_ms, record.key if form == FORMAT else None, headers,
        None if record.tombstone else record.value, event_type, step, time, started, saga_id, seq, hash_, added, error,
        stored_skip(record, form),
    )  # fmt: skip
    if row is not None and row[_COMPARED] == expected:
        return ()
    return compare_fields(record, row, dict(zip(FIELDS, expected, strict=True)))


def expected_fields(record: Record, form: int) -> dict[str, Any]:
    """Return the columns that depend on the record alone, for a hash of this format."""
    headers = dump_headers(record.headers) if form == FORMAT else dump_headers_v1(record.headers)
    value = None if record.tombstone else record.value
    told = (record.offset, record.recorded_ms, record.key if form == FORMAT else None, headers, value)
    return dict(zip(SAID, (*told, *describe(dict(record.headers))), strict=True))


def compare_fields(record: Record, row: asyncpg.Record | None, expected: dict[str, Any]) -> Iterator[Difference]:
    """Compare fields of a record's row, by name."""
    where = at(record)
    if row is None:
        yield Difference(where, "row", "there", "missing")
        return
    for field, mine in expected.items():
        if (row[field] or None) != (mine or None) or (field in _NULLABLE and (row[field] is None) != (mine is None)):
            yield Difference(where, field, format_value(mine), format_value(row[field]))


def at(record: Record) -> str:
    """Return a record's position."""
    return f"{record.topic}[{record.partition}] offset {record.offset}"


def format_value(value: object) -> str:
    """Return a value as text, truncated if it is long."""
    text = value.hex() if isinstance(value, bytes) and len(value) in _HASHES else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _there(checkpoint: SagaSnapshot | str | None) -> str:
    if isinstance(checkpoint, str):
        return checkpoint
    return "missing" if checkpoint is None else checkpoint.status.value


class PartialSagas:
    """Sagas that began before the range: they cannot be folded, so only their rows are compared."""

    def __init__(self) -> None:
        self.heads: dict[UUID, Head] = {}
        """The number and hash of each saga's last row; (0, b"") if unknown."""

    def __contains__(self, saga_id: UUID) -> bool:
        return saga_id in self.heads

    def take(self, saga_id: UUID, record: Record, row: asyncpg.Record | None, form: int) -> Iterator[Difference]:
        """Compare a record with its row: bytes and columns, and the chain from the second record on."""
        expected = {**expected_fields(record, form), "saga_id": saga_id, "skipped": stored_skip(record, form)}
        seq, head = self.heads.get(saga_id, (0, b""))
        if row is None:
            self.heads[saga_id] = (0, b"")
        elif row["seq"] is None:
            self.heads.setdefault(saga_id, (0, b""))
            expected["hash"] = link_as(form, b"", record)
        else:
            if head:
                expected["seq"], expected["hash"] = seq + 1, link_as(form, head, record)
            self.heads[saga_id] = (row["seq"], row["hash"])
        yield from compare_fields(record, row, expected)
