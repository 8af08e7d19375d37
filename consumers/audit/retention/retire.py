"""Retires the oldest partitions of the audit log; a signed record of their ranges takes their place."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from tradesaga.consumers.audit.log.action_log import Action, ActionKind, ActionLog
from tradesaga.consumers.audit.log.log_check import LogCheck, Report, read_notes
from tradesaga.consumers.audit.log.retired_ranges import RetiredRange, RetiredRanges
from tradesaga.consumers.audit.log.rows import stream_log
from tradesaga.consumers.audit.retention.legal_holds import ActiveHolds, LegalHold, Scope, names_held, read_holds
from tradesaga.consumers.audit.retention.segments import (
    DEFAULT,
    Extent,
    Part,
    Segment,
    count_bytes,
    join,
    list_parts,
    measure,
)
from tradesaga.infra.audit_log.checkpoint import Checkpoint, Origin
from tradesaga.infra.audit_log.merkle import Frontier, hash_leaf
from tradesaga.infra.audit_log.note import Signer, Verifier
from tradesaga.infra.audit_log.schedule import Schedule
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.status import Status

_NEXT: Final = """
SELECT note FROM audit_checkpoint WHERE topic = $1 AND partition = $2 AND size >= $3 ORDER BY size LIMIT 1
"""

_COUNT: Final = "SELECT count(*) FROM {rows} e"

_UP_TO: Final = """
SELECT count(*) FROM saga_event WHERE topic = $1 AND partition = $2 AND "offset" >= $3 AND "offset" <= $4
"""


@dataclass
class SegmentVerifier:
    """Verifies a segment against the next checkpoint of each of its logs."""

    sql: Connection
    log_id: str
    trusted: Mapping[bytes, Verifier]
    retired: RetiredRanges
    held: ActiveHolds
    progress: Callable[[int], None]

    async def verify(self, segment: Segment, extents: Sequence[Extent]) -> tuple[list[RetiredRange], list[str]]:
        """Return the retired ranges, and the reasons why the segment cannot be retired."""
        ranges: list[RetiredRange] = []
        found: list[str] = []
        report = Report()
        for extent in extents:
            range_, reason = await self._log(report, extent)
            ranges += [range_] if range_ is not None else []
            found += [reason] if reason else []
        found += [f"{each.where}: {each.what}" for each in report.findings]
        there = await self.sql.fetchval(_COUNT.format(rows=segment.rows))
        if not found and there != (read := sum(range_.records for range_ in ranges)):
            found.append(f"it holds {there:,} records, of which only {read:,} are of known logs")
        return ranges, found

    async def _log(self, report: Report, extent: Extent) -> tuple[RetiredRange | None, str]:
        origin = Origin(self.log_id, extent.topic, extent.partition)
        begin = await self.retired.begin(self.sql, Report(), origin, extent.first)
        frontier = begin.frontier.copy() if begin is not None else Frontier.empty()
        records = await self.sql.fetchval(_UP_TO, extent.topic, extent.partition, extent.first, extent.last)
        due = await self._next_checkpoint(report, origin, frontier.size + records)
        if due is None:
            return None, f"{origin}: no valid checkpoint covers its records"
        holds = self.held.named(Scope.ACCOUNT, Scope.SYMBOL)
        check, range_, first = LogCheck(report, origin, {due.size: due}, begin), None, frontier.size
        async for row in stream_log(self.sql, extent.topic, extent.partition, extent.first, due.size - frontier.size):
            check.take(row)
            if row.record.offset <= extent.last:
                frontier.append(hash_leaf(row.hash))
                if hold := next((hold for hold in holds if names_held(hold, row.record.value)), None):
                    return None, f"{hold}: offset {row.record.offset} of {extent.topic}[{extent.partition}]"
            if row.record.offset == extent.last:
                place = (extent.topic, extent.partition, extent.first, extent.last + 1)
                range_ = RetiredRange(*place, frontier.size - first, frontier.copy())
            if not report.rows % 1000:
                self.progress(report.rows)
        check.finish()
        return range_, ""

    async def _next_checkpoint(self, report: Report, origin: Origin, size: int) -> Checkpoint | None:
        note = await self.sql.fetchval(_NEXT, origin.topic, origin.partition, size)
        known = read_notes(report, "database", [note] if note else [], self.trusted).get(str(origin), {})
        return next((checkpoint for checkpoint, _ in known.values() if checkpoint.size >= size), None)


_OPEN: Final = """
SELECT saga_id, min(since) AS since FROM (
    SELECT saga_id, created_at AS since FROM saga WHERE state <> ALL($1::text[])
    UNION ALL SELECT saga_id, recorded_at FROM parked WHERE released IS NULL AND saga_id IS NOT NULL
) AS unfinished GROUP BY saga_id
"""

_THERE: Final = "SELECT DISTINCT e.saga_id FROM {rows} e WHERE e.saga_id = ANY($1::uuid[])"

_SEALED: Final = "SELECT topic, partition, next_offset FROM audit_edge"


@dataclass(frozen=True, slots=True)
class SegmentStatus:
    """The state of a segment; `due` is the end of its retention, None if it is kept forever."""

    segment: Segment
    extents: Sequence[Extent]
    size: int
    due: datetime | None
    open_sagas: int
    oldest_open: datetime | None
    holds: Sequence[str]
    why_not: Sequence[str]

    @property
    def records(self) -> int:
        """The maximum number of records."""
        return sum(extent.records for extent in self.extents)


@dataclass(frozen=True, slots=True)
class Survey:
    """The state on which decisions to retire depend, read once."""

    now: datetime
    schedule: Schedule
    held: ActiveHolds
    unfinished: Mapping[UUID, datetime]
    sealed: Mapping[tuple[str, int], int]
    parts: Mapping[Part, Sequence[Extent]]

    @classmethod
    async def begin(cls, sql: Connection, schedule: Schedule, holds: Sequence[LegalHold]) -> "Survey":
        """Read open sagas, holds, seals and partitions."""
        finals = [status.value for status in Status if status.final]
        return cls(
            await sql.fetchval("SELECT clock_timestamp()"),
            schedule,
            await ActiveHolds.find(sql, holds),
            {row["saga_id"]: row["since"] for row in await sql.fetch(_OPEN, finals)},
            {(row["topic"], row["partition"]): row["next_offset"] for row in await sql.fetch(_SEALED)},
            {part: await measure(sql, part) for part in await list_parts(sql)},
        )

    async def all(self, sql: Connection) -> list[SegmentStatus]:
        """Return the status of each partition by itself, oldest first."""
        return [await self.look(sql, Segment([part])) for part in self.parts]

    async def look(self, sql: Connection, segment: Segment) -> SegmentStatus:
        """Return the status of one segment."""
        extents = join(each for part in segment.parts for each in self.parts[part])
        there = await sql.fetch(_THERE.format(rows=segment.rows), list(self.unfinished))
        since = [self.unfinished[row["saga_id"]] for row in there]
        due = self._due(segment, extents)
        holds = await self.held.over(sql, segment)
        why = [*self._young(due), *self._unsealed(extents), *self._behind(segment, extents)]
        why += [f"{len(since):,} sagas of it are not at their end"] if since else []
        why += holds
        if not why:  # this one reads every row
            why = holds = await self.held.in_doubt(sql, segment)
        size = await count_bytes(sql, segment)
        return SegmentStatus(segment, extents, size, due, len(since), min(since, default=None), holds, why)

    def _due(self, segment: Segment, extents: Sequence[Extent]) -> datetime | None:
        ends = [part.end for part in segment.parts if part.end is not None]
        ends += [extent.until for extent in extents]
        return self.schedule.due(max(ends, default=self.now), {extent.saga for extent in extents})

    def _young(self, due: datetime | None) -> list[str]:
        if due is None:
            return ["no schedule lets it go: TRADESAGA_AUDIT_RETENTION is off"]
        return [f"it is kept until {due:%Y-%m-%d %H:%M:%S} UTC"] if due > self.now else []

    def _unsealed(self, extents: Sequence[Extent]) -> list[str]:
        ends = [(each, self.sealed.get((each.topic, each.partition), 0)) for each in extents]
        return [
            f"{each.topic}[{each.partition}] is sealed up to offset {end}; its last record is {each.last}"
            for each, end in ends
            if end <= each.last
        ]

    def _behind(self, segment: Segment, extents: Sequence[Extent]) -> list[str]:
        """Return the partitions with older records of the segment's logs: only the beginning of a log can be retired.

        The broker's times may step back, so that a partition has older offsets than the one of the month before.
        """
        last = {(each.topic, each.partition): each.last for each in extents}
        return [
            f"{part.name} holds older records of {each.topic}[{each.partition}]: retire it before, or both together"
            for part, others in self.parts.items()
            if part not in segment.parts
            for each in others
            if each.first < last.get((each.topic, each.partition), 0)
        ]


_HEADS: Final = """
INSERT INTO audit_retired_head (topic, partition, saga_id, seq, hash)
SELECT DISTINCT ON (topic, partition, saga_id) topic, partition, saga_id, seq, hash FROM {rows} e
WHERE seq IS NOT NULL AND saga_id IS NOT NULL ORDER BY topic, partition, saga_id, seq DESC
ON CONFLICT (topic, partition, saga_id) DO UPDATE SET seq = excluded.seq, hash = excluded.hash
"""

# A detached table loses the inherited trigger; its rows must remain unchangeable.
_DETACH: Final = """
ALTER TABLE saga_event DETACH PARTITION {old};
ALTER TABLE {old} RENAME TO {new};
CREATE TRIGGER saga_event_append_only BEFORE UPDATE OR DELETE ON {new} FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""

_NEW_DEFAULT: Final = f"""
CREATE TABLE {DEFAULT} (LIKE saga_event INCLUDING ALL);
ALTER TABLE saga_event ATTACH PARTITION {DEFAULT} DEFAULT;
CREATE TRIGGER saga_event_keep BEFORE TRUNCATE ON {DEFAULT} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


@dataclass(frozen=True, slots=True)
class RetireRequest:
    """Partitions to retire, operator and reason; without names, the oldest one with records that may be retired."""

    names: Sequence[str]
    operator: str
    reason: str


async def survey(log: ActionLog, schedule: Schedule) -> Survey:
    """Read the state for decisions to retire."""
    return await Survey.begin(log.sql, schedule, read_holds(log.actions))


async def retire(
    log: ActionLog, signer: Signer, schedule: Schedule, order: RetireRequest, progress: Callable[[int], None]
) -> Action:
    """Detach partitions and sign their retired ranges; the renamed tables remain until they are dropped.

    Raises `CommandError` (exit 3 for an unknown partition, exit 4 with all reasons against it) and `HistoryError`.
    """
    async with log.turn():
        # From here on, no rows are added to what is read and no partition is attached or detached.
        await log.sql.execute("LOCK TABLE saga_event IN ACCESS SHARE MODE")
        segment = Segment(await _choose(log.sql, await survey(log, schedule), order.names))
        await log.sql.execute(f"LOCK TABLE {', '.join(part.quoted for part in segment.parts)} IN SHARE MODE")
        survey_ = await survey(log, schedule)
        look = await survey_.look(log.sql, segment)
        _refuse(segment, look.why_not)
        cut = SegmentVerifier(log.sql, log.log_id, log.trusted, RetiredRanges.read(log.actions), survey_.held, progress)
        ranges, why_not = await cut.verify(segment, look.extents)
        _refuse(segment, why_not)
        action = Action(ActionKind.RETIRE, order.operator, order.reason, time.time_ns(), _detail(log, look, ranges))
        await log.sql.execute(_HEADS.format(rows=segment.rows))
        await log.record(signer, action)
        for told in action.detail["partitions"]:
            await _detach(log.sql, told["name"], told["table"])
    return action


async def _choose(sql: Connection, survey_: Survey, names: Sequence[str]) -> list[Part]:
    parts = list(survey_.parts)
    if not names:
        for part in parts:
            look = await survey_.look(sql, Segment([part]))
            if look.records and not look.why_not:
                return [part]
        do = "see why not with `tradesaga audit retention`"
        raise CommandError("nothing-due", "no partition may be retired now", "audit log", do, ExitCode.REFUSED)
    known = {part.name: part for part in parts}
    if unknown := set(names) - known.keys():
        what = f"the audit log has no partition {', '.join(sorted(unknown))}"
        do = "see which there are with `tradesaga audit retention`"
        raise CommandError("partition-unknown", what, "--partition", do, ExitCode.NOT_FOUND)
    return [part for part in parts if part.name in set(names)]


def _refuse(segment: Segment, why_not: Sequence[str]) -> None:
    if why_not:
        do = "nothing was changed; resolve these reasons first"
        raise CommandError("not-retired", "; ".join(why_not), str(segment), do, ExitCode.REFUSED)


def _detail(log: ActionLog, look: SegmentStatus, ranges: Sequence[RetiredRange]) -> dict[str, Any]:
    number = len(log.entries)
    partitions = [
        {
            "name": part.name,
            "table": f"retired_{number}_{part.name}",
            "from": part.start.isoformat() if part.start else None,
            "to": part.end.isoformat() if part.end else None,
        }
        for part in look.segment.parts
    ]
    return {"partitions": partitions, "bytes": look.size, "logs": [range_.to_json() for range_ in ranges]}


async def _detach(sql: Connection, name: str, table: str) -> None:
    old, new = (f'"{each}"' for each in (name, table))
    await sql.execute(_DETACH.format(old=old, new=new))
    if name == DEFAULT:
        await sql.execute(_NEW_DEFAULT)
