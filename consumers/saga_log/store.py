"""The saga log's SQL: each function is one statement, whatever the size of the batch."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from tradesaga.consumers.saga_log.chain import FORMAT, stored_skip
from tradesaga.consumers.saga_log.fold import FoldResult
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Parked, ParkedRecords, SagaSnapshot, Tracked, parked_records
from tradesaga.infra.kafka.codec import Record, dump_headers, load_headers
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.registry.sagas import UNKNOWN_VERSION
from tradesaga.infra.saga_queries import ProgressError, decode_progress, encode_progress
from tradesaga.sagas.machine import State
from tradesaga.sagas.status import Status

LOAD: Final = """
SELECT saga_id, version, state, context, progress, seq, head, deadline, deadline_due IS NOT NULL AS pending,
    request_hash, created_at, updated_at
FROM saga WHERE saga_id = ANY($1::uuid[])
"""
# The columns of a sealed saga, whose progress comes empty, stay as they are: only another definition can read them.
WRITE: Final = """
INSERT INTO saga AS s (saga_id, lane, version, state, current_step_index, completed_steps, compensated_steps, context,
    progress, seq, head, deadline, deadline_due, request_hash, created_at, updated_at, name)
SELECT *, $17 FROM unnest($1::uuid[], $2::int[], $3::int[], $4::text[], $5::smallint[], $6::json[], $7::json[],
    $8::json[], $9::bytea[], $10::int[], $11::bytea[], $12::timestamptz[], $13::timestamptz[], $14::text[],
    $15::timestamptz[], $16::timestamptz[])
ON CONFLICT (saga_id) DO UPDATE SET state = excluded.state, context = excluded.context, seq = excluded.seq,
    head = excluded.head,
    (current_step_index, completed_steps, compensated_steps, progress) = (SELECT
        CASE WHEN sealed THEN s.current_step_index ELSE excluded.current_step_index END,
        CASE WHEN sealed THEN s.completed_steps ELSE excluded.completed_steps END,
        CASE WHEN sealed THEN s.compensated_steps ELSE excluded.compensated_steps END,
        CASE WHEN sealed THEN s.progress ELSE excluded.progress END
        FROM (VALUES (excluded.progress = '')) AS t (sealed)),
    deadline_due = excluded.deadline_due, updated_at = excluded.updated_at, lane = excluded.lane
"""
EVENT: Final = (
    "topic", "partition", "offset", "recorded_at", "saga_id", "seq", "event_type", "step_name", "event_time", "started",
    "context_added", "error", "headers", "value", "hash", "writer_epoch", "key",
    "skipped",
)  # fmt: skip
"""The columns of `saga_event`."""
PARK: Final = """
INSERT INTO parked ("group", topic, partition, "offset", saga_id, reason, recorded_at, headers, value)
SELECT $1, * FROM unnest($2::text[], $3::int[], $4::bigint[], $5::uuid[], $6::text[], $7::timestamptz[], $8::text[],
    $9::bytea[])
"""
RELEASE: Final = """
UPDATE parked p SET released = r.action, released_at = r.at
FROM unnest($2::text[], $3::int[], $4::bigint[], $5::text[], $6::timestamptz[])
    AS r (topic, partition, "offset", action, at)
WHERE p."group" = $1 AND p.topic = r.topic AND p.partition = r.partition AND p."offset" = r."offset"
"""
PARKED_SAGAS: Final = """
SELECT DISTINCT saga_id FROM parked
WHERE "group" = $1 AND topic = $2 AND partition = ANY($3::int[]) AND released IS NULL AND saga_id IS NOT NULL
"""
# The first parked record of each saga, if it is parked for a version of the definition.
PARKED_FOR_VERSION: Final = """
SELECT saga_id, topic, partition, "offset", reason FROM (
    SELECT DISTINCT ON (saga_id) saga_id, topic, partition, "offset", reason FROM parked
    WHERE "group" = $1 AND saga_id = ANY($2::uuid[]) AND released IS NULL ORDER BY saga_id, "offset"
) AS first WHERE starts_with(reason, $3) ORDER BY topic, partition, "offset"
"""
PARKED: Final = """
SELECT topic, partition, "offset", saga_id, reason, recorded_at, headers, value FROM parked
WHERE "group" = $1 AND saga_id = ANY($2::uuid[]) AND released IS NULL ORDER BY topic, partition, "offset"
"""
# The lane has the offset of the last record that was read, unless an older release or a recovery has moved it. It stays
# right when audit rows are removed.
LAST_OFFSETS: Final = """
SELECT k.id, greatest(k.seen_offset, e."offset") AS "offset" FROM lane k
LEFT JOIN LATERAL (
    SELECT s."offset" FROM saga_event s
    WHERE s.topic = k.topic AND s.partition = k.partition AND s."offset" < k.next_offset
    ORDER BY s."offset" DESC LIMIT 1
) e ON true
WHERE k.id = ANY($1::int[])
"""
# The database's clock decides, so that a process with a wrong clock ends no saga. One LATERAL query for each lane, and
# the time in a subquery, so that the index gives the first rows in order and no others are read.
DUE: Final = """
SELECT d.saga_id FROM unnest($1::int[]) AS l (lane) CROSS JOIN LATERAL (
    SELECT saga_id, deadline_due FROM saga s
    WHERE s.lane = l.lane AND s.deadline_due <= (SELECT clock_timestamp() - make_interval(secs => $3))
    ORDER BY s.deadline_due LIMIT $2
) AS d ORDER BY d.deadline_due LIMIT $2
"""
NEXT_DUE: Final = """
SELECT extract(epoch FROM min(d.deadline_due) - clock_timestamp())::float8
FROM unnest($1::int[]) AS l (lane) CROSS JOIN LATERAL (
    SELECT deadline_due FROM saga s
    WHERE s.lane = l.lane AND s.deadline_due IS NOT NULL ORDER BY s.deadline_due LIMIT 1
) AS d
"""
# Open sagas past their deadline, by the partial index of these. Without contexts, which could be large.
LATE: Final = """
SELECT saga_id, deadline, version, progress, EXISTS (
    SELECT FROM parked p WHERE p.saga_id = s.saga_id AND p."group" = $3 AND p.released IS NULL
) AS parked
FROM saga s
WHERE name = $1 AND state IN ('IDLE', 'RUNNING', 'COMPENSATING') AND lane = ANY($2::int[])
    AND (deadline, saga_id) > ($4, $5) AND deadline <= (SELECT clock_timestamp() - make_interval(secs => $6))
ORDER BY deadline, saga_id LIMIT $7
"""


class Late(NamedTuple):
    """An open saga past its deadline; `state` is None if this definition cannot read it."""

    saga_id: UUID
    deadline: datetime
    version: int
    state: State | None
    parked: bool


class Page(NamedTuple):
    """A page of late sagas: those after this one, late by at least `grace` seconds, at most `limit`."""

    deadline: datetime
    saga_id: UUID
    grace: float
    limit: int


class Waiting(NamedTuple):
    """The place of a parked record, and its reason."""

    saga_id: UUID
    topic: str
    partition: int
    offset: int
    reason: str


def moment(milliseconds: int) -> datetime:
    """Convert broker milliseconds to a datetime."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def milliseconds(at: datetime) -> int:
    """Convert a datetime back to broker milliseconds."""
    return round(at.timestamp() * 1000)


async def load(sql: Connection, rules: Rules, sagas: Collection[UUID]) -> dict[UUID, SagaSnapshot]:
    """Read the snapshots of sagas."""
    return {row["saga_id"]: _snapshot(rules, row) for row in await sql.fetch(LOAD, list(sagas))}


async def write(sql: Connection, rules: Rules, touched: Sequence[tuple[int, Tracked]]) -> None:
    """Write snapshots, each with its lane."""
    rows = [_row(rules, lane, tracked.saga_id, tracked.snapshot) for lane, tracked in touched if tracked.snapshot]
    if rows:
        await sql.execute(WRITE, *zip(*rows, strict=True), rules.saga.name)


async def enter(sql: Connection, outcomes: Sequence[tuple[Lane, FoldResult]]) -> None:
    """Write one audit row for each record."""
    rows = [_entry(lane.epoch, outcome) for lane, outcome in outcomes]
    if rows:
        await sql.copy_records_to_table("saga_event", columns=EVENT, records=rows)


async def park(sql: Connection, group: str, parked: Sequence[tuple[UUID, Parked]]) -> None:
    """Park records."""
    rows = [
        (record.topic, record.partition, record.offset, saga_id, reason, record.recorded_at,
         dump_headers(record.headers), None if record.tombstone else record.value)
        for saga_id, (record, reason) in parked
    ]  # fmt: skip
    if rows:
        await sql.execute(PARK, group, *zip(*rows, strict=True))


async def release(sql: Connection, group: str, outcomes: Sequence[FoldResult]) -> None:
    """Mark parked records as released."""
    rows = [
        (*released.parked.place, released.action, outcome.record.recorded_at)
        for outcome in outcomes
        for released in outcome.released
    ]
    if rows:
        await sql.execute(RELEASE, group, *zip(*rows, strict=True))


async def last_offsets(sql: Connection, lanes: Collection[int]) -> dict[int, int]:
    """Return the offset of the last record read, by lane; lanes without one are left out."""
    rows = await sql.fetch(LAST_OFFSETS, list(lanes))
    return {row["id"]: row["offset"] for row in rows if row["offset"] is not None}


async def parked_sagas(sql: Connection, group: str, topic: str, partitions: Collection[int]) -> set[UUID]:
    """Return the sagas of these partitions that have parked records."""
    return {row["saga_id"] for row in await sql.fetch(PARKED_SAGAS, group, topic, list(partitions))}


async def parked_for_version(sql: Connection, group: str, sagas: Collection[UUID]) -> list[Waiting]:
    """Return the first parked record of each of these sagas, if it is parked for a version of the definition."""
    rows = await sql.fetch(PARKED_FOR_VERSION, group, list(sagas), UNKNOWN_VERSION)
    return [Waiting(**row) for row in rows]


async def load_parked(sql: Connection, group: str, sagas: Collection[UUID]) -> dict[UUID, ParkedRecords]:
    """Read the parked records of these sagas, oldest first."""
    found: dict[UUID, list[Parked]] = {}
    for row in await sql.fetch(PARKED, group, list(sagas)):
        saga_id: UUID = row["saga_id"]
        key, headers = str(saga_id).encode(), load_headers(row["headers"])
        at = milliseconds(row["recorded_at"])
        value = row["value"]
        record = Record(
            row["topic"], row["partition"], row["offset"], at, key, value or b"", headers, tombstone=value is None
        )
        found.setdefault(saga_id, []).append(Parked(record, row["reason"]))
    return {saga_id: parked_records(parked) for saga_id, parked in found.items()}


async def find_due(sql: Connection, lanes: Collection[int], limit: int, lead: float = 0.0) -> list[UUID]:
    """Return the sagas of these lanes whose deadline has passed and has not been published.

    `lead`: seconds by which the database's clock is known to be ahead of the broker's.
    """
    return [row["saga_id"] for row in await sql.fetch(DUE, list(lanes), limit, lead)]


async def next_due_in(sql: Connection, lanes: Collection[int]) -> float | None:
    """Return the seconds to the next deadline of these lanes, negative when it has passed, None when there is none."""
    return await sql.fetchval(NEXT_DUE, list(lanes))


async def find_late(sql: Connection, rules: Rules, group: str, lanes: Collection[int], page: Page) -> list[Late]:
    """Return the open sagas of these lanes that are past their deadlines, the earliest deadline first."""
    late = (page.deadline, page.saga_id, page.grace, page.limit)
    rows = await sql.fetch(LATE, rules.saga.name, list(lanes), group, *late)
    return [
        Late(r["saga_id"], r["deadline"], r["version"], _state(rules, r["version"], r["progress"]), r["parked"])
        for r in rows
    ]


def _state(rules: Rules, version: int, progress: bytes) -> State | None:
    """Return a row's state, or None if the definition is not registered or cannot read it."""
    own = rules.versions.get(version)
    if own is not None:
        with suppress(ProgressError):
            return decode_progress(own.machine, progress)
    return None


def _snapshot(rules: Rules, row: asyncpg.Record) -> SagaSnapshot:
    own, state = rules.versions.get(row["version"]), _state(rules, row["version"], row["progress"])
    return SagaSnapshot(
        version=row["version"],
        state=state or (own or rules).machine.begin(),
        status=Status(row["state"]),
        context=row["context"].encode(),
        request_hash=row["request_hash"],
        seq=row["seq"],
        head=row["head"],
        created_ms=milliseconds(row["created_at"]),
        updated_ms=milliseconds(row["updated_at"]),
        deadline_ms=milliseconds(row["deadline"]),
        deadline_pending=row["pending"],
        sealed=state is None,
    )


def _row(rules: Rules, lane: int, saga_id: UUID, snapshot: SagaSnapshot) -> tuple[Any, ...]:
    state, deadline = snapshot.state, moment(snapshot.deadline_ms)
    own = rules.versions.get(snapshot.version, rules)  # for an unknown version, no progress is written
    return (
        saga_id,
        lane,
        snapshot.version,
        snapshot.status.value,
        own.first_open(state),
        own.names(state.done),
        own.names(state.compensated),
        snapshot.context.decode(),
        b"" if snapshot.sealed else encode_progress(own.machine, state),
        snapshot.seq,
        snapshot.head,
        deadline,
        deadline if snapshot.deadline_pending else None,
        snapshot.request_hash,
        moment(snapshot.created_ms),
        moment(snapshot.updated_ms),
    )


def _entry(epoch: int, outcome: FoldResult) -> tuple[Any, ...]:
    record, entry, tracked = outcome.record, outcome.entry, outcome.tracked
    return (
        record.topic,
        record.partition,
        record.offset,
        record.recorded_at,
        tracked.saga_id if tracked is not None else None,
        entry.seq,
        entry.event_type,
        entry.step,
        entry.time,
        entry.started,
        entry.added,
        entry.error,
        entry.headers,
        None if record.tombstone else record.value,
        entry.hash,
        epoch,
        record.key if entry.form == FORMAT else None,
        stored_skip(record, entry.form),
    )
