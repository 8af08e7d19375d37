"""Reading all that is to be retired once more, record by record, and what is left of each log afterwards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tradesaga.consumers.audit.log.rows import stream_log
from tradesaga.consumers.audit.retention.legal_holds import ActiveHolds, Scope, names_held
from tradesaga.consumers.audit.retention.retired_ranges import RetiredRange, RetiredRanges
from tradesaga.consumers.audit.retention.segments import Extent, Segment
from tradesaga.consumers.audit.verify.log_check import LogCheck, Report, read_notes
from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.merkle import Frontier, hash_leaf
from tradesaga.infra.audit_log.note import Verifier
from tradesaga.infra.audit_log.origin import Origin
from tradesaga.infra.postgres.database import Connection

_NEXT: Final = """
SELECT note FROM audit_checkpoint WHERE topic = $1 AND partition = $2 AND size >= $3 ORDER BY size LIMIT 1
"""
_COUNT: Final = "SELECT count(*) FROM {rows} e"
_UP_TO: Final = """
SELECT count(*) FROM saga_event WHERE topic = $1 AND partition = $2 AND "offset" >= $3 AND "offset" <= $4
"""


@dataclass
class SegmentVerifier:
    """Verifies a segment against the checkpoint that comes next, and gives the tombstones of its logs."""

    sql: Connection
    log_id: str
    trusted: Mapping[bytes, Verifier]
    retired: RetiredRanges
    held: ActiveHolds
    progress: Callable[[int], None]

    async def verify(self, segment: Segment, extents: Sequence[Extent]) -> tuple[list[RetiredRange], list[str]]:
        """Return what would be left, and why the segment cannot be retired."""
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
            return None, f"{origin}: no checkpoint that can be believed covers its records"
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
