"""The reads of an export from PostgreSQL: logs and checkpoints, records, hashes of other records, and sagas."""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import asyncpg

from tradesaga.consumers.audit.export.folder import HashedFile
from tradesaga.consumers.audit.export.layout import write_line
from tradesaga.consumers.audit.export.manifest import ClockSummary, Query
from tradesaga.consumers.audit.log.rows import IN_SPAN, first_offset, read_leaves, read_pages, read_span
from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.note import NoteError, Verifier, open_note
from tradesaga.infra.errors import CommandError
from tradesaga.infra.postgres.database import Session
from tradesaga.infra.saga_queries import QUERYABLE_CONTEXT, Starts

PAGE: Final = 2000

_LOGS: Final = """
SELECT DISTINCT ON (topic, partition) topic, partition, size, note
FROM audit_checkpoint WHERE $1::text IS NULL OR topic = $1 ORDER BY topic, partition, size DESC
"""
_UNSEALED: Final = """
SELECT count(*) FROM saga_event e JOIN lane k USING (topic, partition)
WHERE topic = $1 AND partition = $2 AND e."offset" >= $3 AND e."offset" < k.next_offset
    AND k."group" = regexp_replace(topic, '\\.events$', '-log')
"""
_NEVER_SEALED: Final = """
SELECT coalesce(sum(c.count), 0)::bigint FROM (SELECT DISTINCT topic, partition FROM lane) k
CROSS JOIN LATERAL (SELECT count(*) FROM saga_event e WHERE e.topic = k.topic AND e.partition = k.partition) c
WHERE ($1::text IS NULL OR k.topic = $1) AND NOT EXISTS
    (SELECT 1 FROM audit_checkpoint c WHERE c.topic = k.topic AND c.partition = k.partition)
"""
_NOTES: Final = """
SELECT size, note FROM audit_checkpoint WHERE topic = $1 AND partition = $2 AND size > $3 AND size <= $4 ORDER BY size
"""
# One record before the first and one after the last show that the range is complete.
_BOUNDS: Final = """
WITH log AS NOT MATERIALIZED (
    SELECT "offset" AS at, recorded_at FROM saga_event WHERE topic = $1 AND partition = $2 AND "offset" < $3
), wanted AS (SELECT
    (SELECT min(at) FROM log WHERE $4::bigint IS NULL OR recorded_at >= to_timestamp($4::numeric / 1000)) AS first,
    (SELECT max(at) FROM log WHERE $5::bigint IS NULL OR recorded_at < to_timestamp($5::numeric / 1000)) AS last
)
SELECT coalesce((SELECT max(at) FROM log WHERE first IS NULL OR at < first), first),
    coalesce((SELECT min(at) FROM log WHERE last IS NULL OR at > last), last)
FROM wanted
"""
_BEFORE: Final = f"""
SELECT saga_id, seq, hash FROM saga_event
WHERE {IN_SPAN} AND (saga_id, seq) IN (SELECT * FROM unnest($5::uuid[], $6::int[]))
    AND ($7::bigint IS NULL OR recorded_at < to_timestamp($7::numeric / 1000))
"""
_SAGAS: Final = """
SELECT saga_id, name, version, state, current_step_index, completed_steps, compensated_steps, context, deadline,
    request_hash, created_at, updated_at, seq, head
FROM saga WHERE saga_id IN (
    SELECT e.saga_id FROM (SELECT saga_id, seq FROM saga_event WHERE {log}) e WHERE e.seq IS NOT NULL
) ORDER BY saga_id
"""


@dataclass(frozen=True)
class SealedLog:
    """A log with its last checkpoint."""

    topic: str
    partition: int
    size: int
    note: str

    @property
    def place(self) -> tuple[str, int]:
        """Topic and partition."""
        return self.topic, self.partition


@dataclass(frozen=True)
class RowFilter:
    """A condition in SQL for the wanted records; its first argument is the fifth."""

    condition: str = ""
    args: tuple[Any, ...] = ()


@dataclass
class Source:
    """Reads in one snapshot. `starts` is the result of `start_events`."""

    sql: Session
    query: Query
    starts: Starts
    wanted: RowFilter = field(init=False)

    def __post_init__(self) -> None:
        self.wanted = _wanted(self.query, self.starts)

    async def logs(self, topic: str | None) -> list[SealedLog]:
        """Return the sealed logs."""
        return [SealedLog(*row) for row in await self.sql.fetch(_LOGS, topic)]

    async def first(self, log: SealedLog) -> int | None:
        """Return the first offset of a log; None where it has no record."""
        return await first_offset(self.sql, *log.place)

    async def unsealed(self, log: SealedLog, end: int) -> int:
        """Return the number of records from offset `end`."""
        return await self.sql.fetchval(_UNSEALED, *log.place, end)

    async def never_sealed(self, topic: str | None) -> int:
        """Return the number of records of logs without a checkpoint."""
        return await self.sql.fetchval(_NEVER_SEALED, topic)

    async def notes(self, log: SealedLog, after: int) -> AsyncGenerator[tuple[int, str]]:
        """Yield the checkpoints of a log that are larger than `after`."""
        async for page in read_pages(self.sql, _NOTES, *log.place, after, log.size):
            for row in page:
                yield row[0], row[1]

    async def bounds(self, log: SealedLog, end: int) -> tuple[int, int] | None:
        """Return the first and last wanted offset before offset `end`; None if there is none."""
        if self.query.whole:
            row = await self.sql.fetchrow(_BOUNDS, *log.place, end, self.query.from_ms, self.query.to_ms)
        else:
            statement = f'SELECT min("offset"), max("offset") FROM saga_event WHERE {IN_SPAN} {self.wanted.condition}'
            row = await self.sql.fetchrow(statement, *log.place, 0, end, *self.wanted.args)
        return (row[0], row[1]) if row is not None and row[0] is not None else None

    def rows(self, log: SealedLog, first: int, last: int) -> AsyncGenerator[list[asyncpg.Record]]:
        """Yield pages of the wanted records between two offsets, in order."""
        span, wanted = (first, last + 1), self.wanted
        return read_span(self.sql, log.place, span, wanted.condition, *wanted.args, page=PAGE)

    def hashes(self, log: SealedLog, first: int, last: int) -> AsyncGenerator[list[asyncpg.Record]]:
        """Yield pages of offset, hash and skipped offsets of all records between two offsets, in order."""
        return read_leaves(self.sql, log.place, (first, last + 1))

    async def before(
        self, log: SealedLog, span: tuple[int, int], records: Sequence[tuple[UUID, int]]
    ) -> dict[tuple[UUID, int], bytes]:
        """Return the hashes of those of these records, by saga and number, that are before the wanted ones.

        `span` is the first and last wanted offset.
        """
        last, before = (span[0] - 1, None) if self.query.whole else (span[1], self.query.from_ms)
        sagas, seqs = [saga_id for saga_id, _ in records], [seq for _, seq in records]
        rows = await self.sql.fetch(_BEFORE, *log.place, 0, last + 1, sagas, seqs, before)
        return {(row[0], row[1]): row[2] for row in rows}

    def sagas(self, log: SealedLog, first: int, last: int) -> AsyncGenerator[list[asyncpg.Record]]:
        """Yield pages of the rows of the sagas with wanted records between two offsets, by id."""
        statement = _SAGAS.format(log=f"{IN_SPAN} {self.wanted.condition}")
        return read_pages(self.sql, statement, *log.place, first, last + 1, *self.wanted.args, page=PAGE)

    async def messages(
        self, log: SealedLog, span: tuple[int, int], sagas: Sequence[UUID], types: Collection[str]
    ) -> list[asyncpg.Record]:
        """Return these sagas' wanted records of some types, between two offsets, by saga."""
        number = 5 + len(self.wanted.args)
        statement = f"""
            SELECT saga_id, event_type, "offset", (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_ms,
                event_time, value, error
            FROM saga_event WHERE {IN_SPAN} {self.wanted.condition} AND saga_id = ANY(${number}::uuid[])
                AND event_type = ANY(${number + 1}::text[]) AND seq IS NOT NULL ORDER BY saga_id, "offset"
            """
        args = (*self.wanted.args, list(sagas), list(types))
        return await self.sql.fetch(statement, *log.place, span[0], span[1] + 1, *args)


def _wanted(query: Query, starts: Starts) -> RowFilter:
    """Return the condition of a query."""
    conditions: list[str] = []
    args: list[Any] = []

    def argument(value: Any, of: str) -> str:
        args.append(value)
        return f"${4 + len(args)}::{of}"

    if query.whole:
        return RowFilter()
    if query.ids:
        conditions.append(f"saga_id = ANY({argument(list(query.ids), 'uuid[]')})")
    asked = {name: value for name, value in (("account", query.account), ("symbol", query.symbol)) if value is not None}
    if asked:
        names, versions = argument([name for name, _ in starts], "text[]"), argument([v for _, v in starts], "int[]")
        events = argument(list(starts.values()), "text[]")
        members = " AND ".join(
            f"{QUERYABLE_CONTEXT} -> t.start ->> '{name}' = {argument(value, 'text')}" for name, value in asked.items()
        )
        of_sagas = f"saga JOIN unnest({names}, {versions}, {events}) AS t (name, version, start) USING (name, version)"
        conditions.append(f"saga_id IN (SELECT saga.saga_id FROM {of_sagas} WHERE {members})")
    for comparison, value in ((">=", query.from_ms), ("<", query.to_ms)):
        if value is not None:
            conditions.append(f"recorded_at {comparison} to_timestamp({argument(value, 'bigint')}::numeric / 1000)")
    return RowFilter(" ".join(f"AND {condition}" for condition in conditions), tuple(args))


_SPACING: Final = 1000
"""Records between two checkpoints of an export: a deviation is located between two of them."""


@dataclass
class Seals:
    """Writes checkpoints, and collects their statements about clocks."""

    trusted: Mapping[bytes, Verifier]
    written: int = 0
    _clocks: dict[str, int] = field(default_factory=dict[str, int])
    _worst: int = -1
    _unknown: int = 0

    def open(self, note: str) -> Checkpoint:
        """Parse a checkpoint. Raises `CommandError` if no known key has signed it."""
        try:
            return Checkpoint.parse(open_note(note, self.trusted)[0])
        except NoteError as error:
            do = "name the keys that sealed, past ones too, in the .pub file of the key, a line each"
            raise CommandError("checkpoint-unknown", str(error), note.split("\n", 1)[0], do) from error

    async def write(self, file: HashedFile, source: Source, log: SealedLog, after: int) -> None:
        """Write the checkpoints of a log that are larger than `after`: one per thousand records, and the last."""
        met = after
        async for size, note in source.notes(log, after):
            self._look_at_clock(note)
            if size - met >= _SPACING or size == log.size:
                met = size
                self.open(note)
                file.write(write_line({"origin": note.split("\n", 1)[0], "size": size, "note": note}))
                self.written += 1

    def _look_at_clock(self, note: str) -> None:
        """Count what a checkpoint states about the clock."""
        line = next((line for line in note.split("\n") if line.startswith("clock ")), "clock unknown -1")
        source, error = line.removeprefix("clock ").rsplit(" ", 1)
        self._clocks[source] = self._clocks.get(source, 0) + 1
        self._worst = max(self._worst, int(error))
        self._unknown += error == "-1"

    def clock(self) -> ClockSummary:
        """Return the summary of all checkpoints' clocks."""
        return ClockSummary(
            checkpoints=sum(self._clocks.values()),
            sources=self._clocks,
            worst_error_ns=self._worst,
            unknown=self._unknown,
        )
