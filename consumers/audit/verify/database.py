"""Verifies the audit log in PostgreSQL with the checkpoints of the database and of witnesses."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from tradesaga.consumers.audit.log.action_log import actions_origin, check_actions, read_entries
from tradesaga.consumers.audit.log.checkpoints import read_ends, read_stored_notes
from tradesaga.consumers.audit.log.log_check import (
    Checkpoints,
    LogCheck,
    Report,
    Verdict,
    by_size,
    check_chain,
    merge_checkpoints,
    read_notes,
)
from tradesaga.consumers.audit.log.retired_ranges import RetiredRanges
from tradesaga.consumers.audit.log.rows import Row, snapshot, stream_rows
from tradesaga.infra.audit_log.checkpoint import Origin
from tradesaga.infra.audit_log.clock_evidence import NO_TIER, ClockTally, ClockTier
from tradesaga.infra.audit_log.note import Verifier
from tradesaga.infra.audit_log.witness import WitnessFile
from tradesaga.infra.postgres.database import Session


async def verify_database(
    sql: Session,
    log_id: str,
    trusted: Mapping[bytes, Verifier],
    witnesses: Sequence[WitnessFile],
    progress: Callable[[int], None],
    *,
    types: frozenset[str] | None = None,
    tier: ClockTier = NO_TIER,
) -> Report:
    """Check every row of the audit log; `progress` is called with the number of rows so far.

    Payloads of other types than `types` count as unreadable. Checkpoints that were signed while the clock was outside
    the tier are remarked on. The log may grow meanwhile. Raises `WitnessError` for a file that cannot be read.
    """
    # Before the snapshot: signers write to the database first, so the snapshot has everything that a witness had.
    seen = [[each.note for each in witness.read()] for witness in witnesses]
    async with snapshot(sql):
        return await _verify(sql, log_id, trusted, seen, progress, report=Report(types=types), tier=tier)


async def _verify(
    sql: Session,
    log_id: str,
    trusted: Mapping[bytes, Verifier],
    witnesses: Sequence[Sequence[str]],
    progress: Callable[[int], None],
    *,
    report: Report,
    tier: ClockTier,
) -> Report:
    entries = await read_entries(sql)
    notes = [*(note for *_, note in await read_stored_notes(sql)), *(entry.note for entry in entries)]
    stored = read_notes(report, "database", notes, trusted)
    for checkpoints in stored.values():
        check_chain(report, checkpoints)
    known = _join(report, stored, witnesses, trusted)
    report.checkpoints = sum(len(checkpoints) for checkpoints in known.values())
    _tell_clock(report, known, tier)
    actions = actions_origin(log_id)
    signed = check_actions(report, actions, entries, by_size(known.pop(str(actions), {})))
    retired = RetiredRanges.believe(report, actions, signed)
    check: LogCheck | None = None
    place: tuple[str, int] | None = None
    async for row in _own_rows(sql, report):
        if check is None or place != row.record[:2]:
            if check is not None:
                check.finish()
            place = (row.record.topic, row.record.partition)
            origin = Origin(log_id, *place)
            begin = await retired.begin(sql, report, origin, row.record.offset)
            check = LogCheck(report, origin, by_size(known.pop(str(origin), {})), begin)
        check.take(row)
        if not report.rows % 1000:
            progress(report.rows)
    if check is not None:
        check.finish()
    for origin, checkpoints in known.items():  # logs of which not one row is left
        begin = await retired.begin(sql, report, Origin.parse(origin), None)
        LogCheck(report, Origin.parse(origin), by_size(checkpoints), begin).finish()
    progress(report.rows)
    return report


async def _own_rows(sql: Session, report: Report) -> AsyncGenerator[Row]:
    """Yield the rows that the saga log wrote, and report all others: these are forged."""
    ends = await read_ends(sql)
    async for row in stream_rows(sql):
        topic, partition, offset = row.record[:3]
        end = ends.get((topic, partition), 0)
        if offset < end:
            yield row
            continue
        what = f"a row lies beyond what the saga log has read, which ends before offset {end}: it is forged"
        report.add(Verdict.ALTERED, f"{topic}[{partition}] offset {offset}", what)


def _tell_clock(report: Report, known: Checkpoints, tier: ClockTier) -> None:
    """Remark on checkpoints signed outside the tier; they are valid all the same."""
    tally = ClockTally(tier)
    for checkpoints in known.values():
        for checkpoint, _ in checkpoints.values():
            tally.take(checkpoint.time, checkpoint.clock_error)
    if tally.outside:
        report.remarks.append(str(tally))


def _join(
    report: Report, stored: Checkpoints, witnesses: Sequence[Sequence[str]], trusted: Mapping[bytes, Verifier]
) -> Checkpoints:
    """Add the witnesses' checkpoints; report contradictions, and those that the database lacks."""
    known = {origin: dict(checkpoints) for origin, checkpoints in stored.items()}
    for number, notes in enumerate(witnesses, 1):
        seen = read_notes(report, f"witness {number}", notes, trusted)
        merge_checkpoints(report, known, f"witness {number}", seen)
        for origin, checkpoints in seen.items():
            for size in sorted(checkpoints.keys() - stored.get(origin, {}).keys()):
                what = f"the checkpoint of {size} records, which a witness has, is not in the database"
                report.add(Verdict.INCOMPLETE, origin, what)
    return known
