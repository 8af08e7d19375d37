"""The sagas of a replay: recently changed ones in memory, the others on disk."""

import base64
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

import orjson

from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import NONE, Parked, ParkedRecords, SagaSnapshot, Tracked, parked_records
from tradesaga.infra.kafka.codec import Record, dump_headers, load_headers
from tradesaga.infra.saga_queries import decode_progress, encode_progress
from tradesaga.sagas.status import Status

KEPT: Final = 10_000
"""The maximum number of sagas in memory, about 3 kB each without their contexts."""
KEPT_BYTES: Final = 64 * 1024 * 1024
"""The maximum size of contexts and parked records in memory, in bytes."""
_SPILL: Final = 1000
"""Sagas that are moved to disk at once."""

_COLUMNS: Final = (
    "saga_id, home, parked, version, progress, status, context, request_hash, seq, head, created_ms, updated_ms,"
    " deadline_ms, pending"
)
TABLE: Final = f"CREATE TABLE saga ({_COLUMNS.replace('saga_id', 'saga_id BLOB PRIMARY KEY', 1)})"
_PUT: Final = f"INSERT OR REPLACE INTO saga VALUES ({', '.join('?' * (_COLUMNS.count(',') + 1))})"
_GET: Final = f"SELECT {_COLUMNS} FROM saga WHERE saga_id = ?"
_ALL: Final = f"SELECT {_COLUMNS} FROM saga"
_AFTER: Final = f"SELECT {_COLUMNS} FROM saga WHERE saga_id > ? ORDER BY saga_id LIMIT ?"


class SagaCache:
    """Sagas by id, in a table of a SQLite database; the caller opens, commits and closes it."""

    def __init__(self, sql: sqlite3.Connection, rules: Rules, kept: int = KEPT) -> None:
        self._sql = sql
        self._rules = rules
        self._kept = kept
        self._near: OrderedDict[UUID, tuple[Tracked, int]] = OrderedDict()
        self._unwritten: set[UUID] = set()
        self._bytes = 0

    def get(self, saga_id: UUID) -> Tracked | None:
        """Return a saga; None if it is unknown."""
        found = self._near.get(saga_id)
        if found is not None:
            self._near.move_to_end(saga_id)
            return found[0]
        row = self._sql.execute(_GET, (saga_id.bytes,)).fetchone()
        return self._read(row) if row is not None else None

    def keep(self, tracked: Tracked) -> None:
        """Store a saga."""
        saga_id, size = tracked.saga_id, _size(tracked)
        known = self._near.pop(saga_id, None)
        self._bytes += size - (known[1] if known is not None else 0)
        self._near[saga_id] = (tracked, size)
        self._unwritten.add(saga_id)
        if len(self._near) > self._kept or self._bytes > KEPT_BYTES:
            self._spill()

    def flush(self) -> None:
        """Write changed sagas to the table, without a commit."""
        self._write(self._near[saga_id][0] for saga_id in self._unwritten)
        self._unwritten.clear()

    def __iter__(self) -> Iterator[Tracked]:
        """Yield all sagas; none may be stored meanwhile."""
        self.flush()
        for row in self._sql.execute(_ALL):
            yield self._read(row)

    def after(self, saga_id: UUID, limit: int) -> list[Tracked]:
        """Return up to `limit` sagas after this id, ordered by id."""
        self.flush()
        return [self._read(row) for row in self._sql.execute(_AFTER, (saga_id.bytes, limit))]

    def count_started(self) -> int:
        """Return the number of sagas that have started."""
        self.flush()
        return self._sql.execute("SELECT count(*) FROM saga WHERE version IS NOT NULL").fetchone()[0]

    def _spill(self) -> None:
        """Move the least recently used sagas to disk."""
        gone: list[Tracked] = []
        for _ in range(min(_SPILL, len(self._near) - 1)):
            saga_id, (tracked, size) = self._near.popitem(last=False)
            self._bytes -= size
            if saga_id in self._unwritten:
                self._unwritten.discard(saga_id)
                gone.append(tracked)
        self._write(gone)

    def _write(self, sagas: Iterator[Tracked] | list[Tracked]) -> None:
        self._sql.executemany(_PUT, (self._row(tracked) for tracked in sagas))

    def _row(self, tracked: Tracked) -> tuple[Any, ...]:
        told = (tracked.saga_id.bytes, tracked.home, _dump_parked(tracked.parked))
        snapshot = tracked.snapshot
        if snapshot is None:
            return (*told, *(None,) * len(SagaSnapshot._fields[:-1]))
        version, state, status, *rest = snapshot[:-1]
        return (*told, version, encode_progress(self._rules.under(version).machine, state), status.value, *rest)

    def _read(self, row: tuple[Any, ...]) -> Tracked:
        saga_id, home, parked, version, progress, status, *rest, pending = row
        snapshot = None
        if version is not None:
            state = decode_progress(self._rules.under(version).machine, progress)
            snapshot = SagaSnapshot._make((version, state, Status(status), *rest, bool(pending), False))
        return Tracked(UUID(bytes=saga_id), home, snapshot, _load_parked(parked))


def _size(tracked: Tracked) -> int:
    context = len(tracked.snapshot.context) if tracked.snapshot is not None else 0
    return context + tracked.parked.size


def _dump_parked(parked: ParkedRecords) -> bytes | None:
    if not parked:
        return None
    rows = [
        (*record[:4], _text(record.key), dump_headers(record.headers), _text(_value(record)), reason)
        for record, reason in parked
    ]
    return orjson.dumps(rows)


def _load_parked(stored: bytes | None) -> ParkedRecords:
    if stored is None:
        return NONE
    return parked_records(
        Parked(
            Record(topic, number, at, ms, _bytes(key), _bytes(value) or b"", load_headers(headers), value is None), why
        )
        for topic, number, at, ms, key, headers, value, why in orjson.loads(stored)
    )


def _value(record: Record) -> bytes | None:
    return None if record.tombstone else record.value


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
