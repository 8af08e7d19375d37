"""What each part of the audit log holds, whether it may be retired, and if not, why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from tradesaga.consumers.audit.retention.legal_holds import ActiveHolds, LegalHold
from tradesaga.consumers.audit.retention.segments import (
    Extent,
    Part,
    Segment,
    count_bytes,
    join,
    list_parts,
    measure,
)
from tradesaga.infra.audit_log.schedule import Schedule
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.status import Status

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
    """One segment of the audit log as it is now; `due` is when the schedule lets it go, None never."""

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
        """Count the records."""
        return sum(extent.records for extent in self.extents)


@dataclass(frozen=True, slots=True)
class Survey:
    """All that decides on retiring, read once."""

    now: datetime
    schedule: Schedule
    held: ActiveHolds
    unfinished: Mapping[UUID, datetime]
    sealed: Mapping[tuple[str, int], int]
    parts: Mapping[Part, Sequence[Extent]]

    @classmethod
    async def begin(cls, sql: Connection, schedule: Schedule, holds: Sequence[LegalHold]) -> "Survey":
        """Read what is open, held and sealed."""
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
        """Look at every partition by itself, the oldest first."""
        return [await self.look(sql, Segment([part])) for part in self.parts]

    async def look(self, sql: Connection, segment: Segment) -> SegmentStatus:
        """Look at one segment."""
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
        """Return where older records of a log lie elsewhere: only the beginning of a log can be retired.

        The broker's times may go back by a moment, so that the end of a month lies in the next one's partition.
        """
        last = {(each.topic, each.partition): each.last for each in extents}
        return [
            f"{part.name} holds older records of {each.topic}[{each.partition}]: retire it before, or both together"
            for part, others in self.parts.items()
            if part not in segment.parts
            for each in others
            if each.first < last.get((each.topic, each.partition), 0)
        ]
