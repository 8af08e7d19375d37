"""Step rows, and the SQL that reads and writes all rows of a batch."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from tradesaga.infra.outbox.processor import ConflictError
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.decide import Transition
from tradesaga.sagas.step_state import RowStatus

Key = tuple[UUID, str]

HELD: Final = 1000 * 31_557_600.0
"""The `wait` of a step that a pause holds: a thousand years. Such rows sort by the time at which they were held."""
HELD_FROM: Final = datetime(2500, 1, 1, tzinfo=UTC)
"""Rows that are due later are held by a pause; all others are due within the time limits of their steps."""

COLUMNS = (
    "saga_id", "step", "lane", "status", "attempt", "back_attempt", "round", "back_round", "bar_seen", "started",
    "input", "back_input", "answer", "back_answer", "reports",
)  # fmt: skip
_COLUMNS = ", ".join(COLUMNS)
LOAD = f"""
SELECT {_COLUMNS} FROM step_execution
WHERE (saga_id, step) IN (SELECT * FROM unnest($1::uuid[], $2::text[])) ORDER BY saga_id, step FOR UPDATE
"""
# One LATERAL query for each lane: in a single query over all lanes the index gives no order, and every row with a due
# time is read. The subquery makes the time a constant, so that the index can be searched with it.
LOAD_DUE = f"""
SELECT {_COLUMNS} FROM step_execution
WHERE (saga_id, step) IN (
    SELECT d.saga_id, d.step FROM unnest($1::int[]) AS l (lane) CROSS JOIN LATERAL (
        SELECT saga_id, step, due FROM step_execution s
        WHERE s.lane = l.lane AND s.due <= (SELECT clock_timestamp()) AND s.step = ANY($2::text[])
        ORDER BY s.due LIMIT $3
    ) AS d ORDER BY d.due LIMIT $3
) AND due <= clock_timestamp() ORDER BY due FOR UPDATE SKIP LOCKED
"""
NEXT_DUE = """
SELECT extract(epoch FROM min(d.due) - clock_timestamp())::float8
FROM unnest($1::int[]) AS l (lane) CROSS JOIN LATERAL (
    SELECT due FROM step_execution s
    WHERE s.lane = l.lane AND s.due < $3 AND s.step = ANY($2::text[]) ORDER BY s.due LIMIT 1
) AS d
"""
# Rows that are due at the same time belong to one page: the next one begins after that time. Nothing is locked: only
# the owner of the lane, which its batch has locked, writes to these rows.
LOAD_HELD = f"""
SELECT {_COLUMNS}, due FROM step_execution
WHERE (saga_id, step) IN (
    SELECT d.saga_id, d.step FROM unnest($1::int[], $2::timestamptz[]) AS l (lane, after) CROSS JOIN LATERAL (
        SELECT saga_id, step FROM step_execution s
        WHERE s.lane = l.lane AND s.due > l.after AND s.step = ANY($3::text[])
        ORDER BY s.due FETCH FIRST $4 ROWS WITH TIES
    ) AS d
) ORDER BY due
"""
_ARRAYS = (
    "$1::uuid[], $2::text[], $3::int[], $4::smallint[], $5::smallint[], $6::smallint[], $7::smallint[], "
    "$8::smallint[], $9::bool[], $10::bigint[], $11::bytea[], $12::bytea[], $13::bytea[], $14::bytea[], "
    "$15::bytea[], $16::float8[]"
)
INSERT = f"""
INSERT INTO step_execution ({_COLUMNS}, due)
SELECT {_COLUMNS}, clock_timestamp() + wait * interval '1 second'
FROM unnest({_ARRAYS}) AS t ({_COLUMNS}, wait)
ON CONFLICT DO NOTHING
"""
UPDATE = f"""
UPDATE step_execution s SET lane = t.lane, status = t.status, attempt = t.attempt, back_attempt = t.back_attempt,
    round = t.round, back_round = t.back_round, bar_seen = t.bar_seen, started = t.started,
    input = t.input, back_input = t.back_input, answer = t.answer, back_answer = t.back_answer, reports = t.reports,
    due = clock_timestamp() + t.wait * interval '1 second'
FROM unnest({_ARRAYS}, $17::smallint[], $18::smallint[], $19::smallint[])
    AS t ({_COLUMNS}, wait, known_status, known_attempt, known_back_attempt)
WHERE s.saga_id = t.saga_id AND s.step = t.step
    AND s.status = t.known_status AND s.attempt = t.known_attempt AND s.back_attempt = t.known_back_attempt
"""


@dataclass(slots=True)
class Row:
    """The row of one step of one saga.

    `wait` is the seconds from the commit after which the row is due; None for never. `input` holds the trigger (for a
    join several, each with its length), `reports` the reports by their ids. `known` is what the database held when the
    row was read: (status, attempt, back attempt), or None for a new row. `held` is whether it was read as held by a
    pause.
    """

    saga_id: UUID
    step: str
    lane: int
    status: RowStatus
    attempt: int = 1
    back_attempt: int = 0
    round: int = 1
    back_round: int = 0
    bar_seen: bool = False
    started: int = 0
    input: bytes | None = None
    back_input: bytes | None = None
    answer: bytes | None = None
    back_answer: bytes | None = None
    reports: bytes | None = None
    wait: float | None = None
    known: tuple[int, int, int] | None = None
    held: bool = False

    @property
    def key(self) -> Key:
        """Return the primary key."""
        return self.saga_id, self.step

    def apply(self, transition: Transition) -> None:
        """Set status, attempts and rounds; the caller sets due time, inputs and answers."""
        if transition.status is not None:
            self.status = transition.status
        self.attempt, self.back_attempt = transition.attempt, transition.back_attempt
        self.round, self.back_round = transition.round, transition.back_round
        self.bar_seen = transition.bar_seen

    def keep_answer(self, answer: bytes) -> None:
        """Store the step's answer; the input is kept only after a failure, for a retry."""
        self.answer, self.wait = answer, None
        if self.status is not RowStatus.FAILED:
            self.input = None

    def keep_compensation_answer(self, answer: bytes) -> None:
        """Store the compensation's answer."""
        self.back_answer, self.back_input, self.wait = answer, None, None


def _read(found: asyncpg.Record) -> Row:
    return _row(dict(found))


def _row(values: dict[str, Any]) -> Row:
    known = (values["status"], values["attempt"], values["back_attempt"])
    values["status"] = RowStatus(values["status"])
    return Row(**values, known=known)


async def load(sql: Connection, keys: Collection[Key]) -> dict[Key, Row]:
    """Lock and read the rows of a batch, in key order."""
    if not keys:
        return {}
    found = await sql.fetch(LOAD, [saga_id for saga_id, _ in keys], [step for _, step in keys])
    return {row.key: row for row in map(_read, found)}


async def load_due(sql: Connection, lanes: Sequence[int], steps: Sequence[str], limit: int) -> list[Row]:
    """Lock and read due rows, by the database's clock, oldest first."""
    return [_read(found) for found in await sql.fetch(LOAD_DUE, lanes, steps, limit)]


async def next_due(sql: Connection, lanes: Sequence[int], steps: Sequence[str]) -> float | None:
    """Return the seconds until the first row is due, negative when it is overdue, None when there is none.

    Held rows do not count.
    """
    return await sql.fetchval(NEXT_DUE, lanes, steps, HELD_FROM)


class HeldPage(NamedTuple):
    """Held rows, the lanes they were looked for in, and by lane the due time after which more of it may follow."""

    rows: Sequence[Row] = ()
    lanes: frozenset[int] = frozenset()
    following: Mapping[int, datetime] = MappingProxyType({})


async def load_held(sql: Connection, after: Mapping[int, datetime], steps: Sequence[str], limit: int) -> HeldPage:
    """Read held rows that are due after these times, by lane, those held longest first.

    Reads about `limit` rows at most, as many of each lane.
    """
    lanes = dict(islice(after.items(), limit))
    if not lanes:
        return HeldPage()
    each = limit // len(lanes)
    rows, dues = list[Row](), dict[int, list[datetime]]()
    for found in await sql.fetch(LOAD_HELD, list(lanes), list(lanes.values()), steps, each):
        values = dict(found)
        due = values.pop("due")
        row = _row(values)
        row.held = True
        rows.append(row)
        dues.setdefault(row.lane, []).append(due)
    return HeldPage(rows, frozenset(lanes), {lane: found[-1] for lane, found in dues.items() if len(found) >= each})


async def save(sql: Connection, rows: Collection[Row]) -> None:
    """Insert new rows and compare-and-set the others. Raises `ConflictError` if another owner was faster.

    New rows that are never due are copied; due times need the database's clock, and so an INSERT.
    """
    ended = [_values(row) for row in rows if row.known is None and row.wait is None]
    waiting = [row for row in rows if row.known is None and row.wait is not None]
    changed = [row for row in rows if row.known is not None]
    if ended:
        await _copy(sql, ended)
    if waiting and await _run(sql, INSERT, _arrays(waiting)) != len(waiting):
        raise ConflictError("a step row appeared while the batch was processed")
    if changed:
        known = zip(*(row.known for row in changed if row.known is not None), strict=True)
        if await _run(sql, UPDATE, [*_arrays(changed), *map(list, known)]) != len(changed):
            raise ConflictError("a step row changed while the batch was processed")


async def _run(sql: Connection, statement: str, arguments: Sequence[object]) -> int:
    """Execute a statement and return its number of rows, from the command tag (`INSERT 0 12`, `UPDATE 12`)."""
    tag = await sql.execute(statement, *arguments)
    return int(tag.rsplit(" ", 1)[1])


async def _copy(sql: Connection, rows: Sequence[Sequence[object]]) -> None:
    try:
        await sql.copy_records_to_table("step_execution", columns=COLUMNS, records=rows)
    except asyncpg.UniqueViolationError as error:
        raise ConflictError("a step row appeared while the batch was processed") from error


def _arrays(rows: Sequence[Row]) -> list[list[object]]:
    columns = zip(*((*_values(row), row.wait) for row in rows), strict=True)
    return [list(column) for column in columns]


def _values(row: Row) -> tuple[object, ...]:
    """Return a row's values in the order of `COLUMNS`."""
    return (
        row.saga_id, row.step, row.lane, int(row.status), row.attempt, row.back_attempt, row.round, row.back_round,
        row.bar_seen, row.started, row.input, row.back_input, row.answer, row.back_answer, row.reports,
    )  # fmt: skip
