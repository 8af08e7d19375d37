"""Builds the records of a saga's report from its rows, without I/O.

The meaning of a record is found by folding its bytes as the saga log did; the other columns are not used. Without the
saga's definition, records are described by their own content.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby
from uuid import UUID

from tradesaga.consumers.audit.log.fold import fold_stored
from tradesaga.consumers.audit.log.rows import Position, Row
from tradesaga.consumers.audit.report.classify import RawRecord, classify, describe_orders, describe_record
from tradesaga.consumers.audit.report.formatting import read_text
from tradesaga.consumers.audit.report.model import (
    UNCHECKED,
    ContextAddition,
    RecordKind,
    Seal,
    TimelineNote,
    TimelineRecord,
)
from tradesaga.consumers.saga_log.chain import format_of, hash_row
from tradesaga.consumers.saga_log.fold import FoldResult
from tradesaga.consumers.saga_log.reading import Rules, event_time, started
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.kafka.codec import Record
from tradesaga.sagas.audit_text import AuditText, text_of

_ATTEMPTED = frozenset(
    {
        RecordKind.STEP_COMPLETE,
        RecordKind.STEP_REFUSED,
        RecordKind.ATTEMPT_FAILED,
        RecordKind.STEP_FAILED,
        RecordKind.STEP_UNKNOWN,
        RecordKind.COMPENSATED,
        RecordKind.COMPENSATION_FAILED,
    }
)


def arrange(rows: Iterable[Row]) -> list[Row]:
    """Return rows with their records as published, ordered by offset, and across partitions by the broker's time."""
    ordered = sorted((row._replace(record=row.published()) for row in rows), key=lambda row: row.position)
    logs = [list(log) for _, log in groupby(ordered, key=lambda row: row.position[:2])]
    return list(merge(*logs, key=lambda row: row.record.recorded_ms))


def rehash(rows: Sequence[Row], retired: Mapping[int, bytes]) -> list[bytes]:
    """Return the hash of each row's bytes, chained to the stored hash of the saga's previous record."""
    heads = {**retired} | {row.seq: row.hash for row in rows if row.seq is not None}
    return [
        hash_row(heads.get(row.seq - 1, b"") if row.seq is not None else b"", row.record, row.stored) for row in rows
    ]


def build_records(
    saga_id: UUID,
    rows: Sequence[Row],
    hashes: Sequence[bytes],
    rules: Rules | None,
    *,
    seals: Mapping[Position, Seal],
    text: AuditText | None,
) -> tuple[list[TimelineRecord], Tracked]:
    """Return the report's records and the saga's final state; `hashes` are those of the rows' bytes."""
    builder = _Builder(rules, Tracked(saga_id, _home(rows)), text)
    told = [
        builder.build_timeline(row, seals.get(row.position, UNCHECKED), intact=found == row.hash)
        for row, found in zip(rows, hashes, strict=True)
    ]
    return told, builder.tracked


def _home(rows: Sequence[Row]) -> int:
    """Return the saga's partition: that of a numbered record, or of one that is no dead letter."""
    counted = [row.position.partition for row in rows if row.seq is not None]
    others = [row.position.partition for row in rows if not (row.error or "").startswith("dead letter")]
    return next(iter(counted or others), 0)


@dataclass
class _Builder:
    rules: Rules | None
    tracked: Tracked
    text: AuditText | None
    seen: set[str] = field(default_factory=set[str])
    begun: set[tuple[str, bool, int]] = field(default_factory=set[tuple[str, bool, int]])

    def build_timeline(self, row: Row, seal: Seal, *, intact: bool) -> TimelineRecord:
        raw = RawRecord.of(row.record)
        outcome = self._fold(row)
        before = self.tracked
        kind = classify(raw, outcome, before, again=raw.id in self.seen)
        if outcome is not None and outcome.tracked is not None:
            self.tracked = outcome.tracked
        if kind not in {RecordKind.PARKED, RecordKind.SET_ASIDE, RecordKind.UNREADABLE}:
            self.seen.add(raw.id)
        back = raw.back or kind is RecordKind.COMPENSATED
        additions = _gains(outcome) if outcome is not None else raw.own_addition()
        state = _state(self.tracked)
        return TimelineRecord(
            position=row.position,
            seq=row.seq,
            id=raw.id,
            type=raw.type,
            writer=raw.writer,
            writer_epoch=row.writer_epoch,
            caused_by=raw.caused_by,
            kind=kind,
            sentence=describe_record(kind, raw, outcome, self.text),
            step=raw.step,
            back=back,
            attempt=raw.attempt,
            round=raw.round,
            event_time=event_time(raw.headers),
            recorded_ms=row.record.recorded_ms,
            started=started(raw.headers),
            operator=text_of(raw.members, "operator"),
            reason=text_of(raw.members, "reason"),
            state=state,
            before=tuple(self._attempt_start(kind, raw, back=back)),
            after=tuple(_consequences(self.rules, outcome, _state(before), state)),
            additions=additions,
            payload=raw.payload,
            size=len(row.record.value),
            error=(outcome.entry.error if outcome is not None else row.error) or "",
            hash=row.hash.hex(),
            intact=intact,
            remarks=tuple(_discrepancies(row, outcome, intact=intact)),
            seal=seal,
        )

    def _fold(self, row: Row) -> FoldResult | None:
        """Fold the row's bytes; skip a row without valid headers, which no saga log wrote."""
        if self.rules is None or not row.record.headers:
            return None
        return fold_stored(self.rules, self.tracked, row.record, format_of(row.hash), row.error)

    def _attempt_start(self, kind: RecordKind, raw: RawRecord, *, back: bool) -> list[TimelineNote]:
        """Return a note for the beginning of this outcome's attempt, once per attempt."""
        time = started(raw.headers)
        if kind not in _ATTEMPTED or time is None or not raw.step or raw.attempt < 1:
            return []
        key = (raw.step, back, time)
        if key in self.begun:
            return []
        self.begun.add(key)
        what = f"compensation of {raw.step}" if back else raw.step
        if raw.attempt > 1 or raw.round > 1:
            sentence = f"{what} retried: attempt {raw.attempt}"
            sentence += f", round {raw.round}" if raw.round > 1 else ""
            return [TimelineNote(RecordKind.RETRY, sentence, raw.step, raw.attempt, time)]
        return [TimelineNote(RecordKind.STEP_START, f"{what} started", raw.step, raw.attempt, time)]


def _state(tracked: Tracked) -> str:
    return tracked.snapshot.status.value if tracked.snapshot is not None else ""


def _gains(outcome: FoldResult) -> tuple[ContextAddition, ...]:
    """Return what the record, and the parked records that it released, added to the context."""
    names = (outcome.entry.added or "").split(",") if outcome.entry.added else []
    records: list[Record] = [outcome.record, *(each.parked.record for each in outcome.released)]
    found: dict[str, ContextAddition] = {}
    for record in records:
        name = RawRecord.of(record).message
        if name in names and name not in found:
            found[name] = ContextAddition(name, read_text(record.value) or "null")
    return tuple(found.values())


def _consequences(rules: Rules | None, outcome: FoldResult | None, before: str, after: str) -> list[TimelineNote]:
    """Return what the saga log did because of the record."""
    if rules is None or outcome is None:
        return []
    notes = [
        TimelineNote(
            RecordKind.RELEASED, f"record parked at {Position(*each.parked.place)} {_release_result(each.action)}"
        )
        for each in outcome.released
    ]
    if before != after:
        told = f"{before} \N{RIGHTWARDS ARROW} {after}" if before else after
        notes.append(TimelineNote(RecordKind.STATE_CHANGE, told))
    snapshot = outcome.tracked.snapshot if outcome.tracked is not None else None
    saga = rules.saga if snapshot is None else rules.under(snapshot.version).saga
    names = [each.name for each in saga.steps]
    return notes + describe_orders(names, outcome.orders)


def _release_result(action: str) -> str:
    return "processed" if action == "retry" else "discarded"


def _discrepancies(row: Row, outcome: FoldResult | None, *, intact: bool) -> list[str]:
    """Return where the row contradicts its bytes."""
    doubts = [] if intact else ["its bytes do not match the stored hash"]
    if not row.record.headers:
        doubts.append("its headers cannot be read")
    if outcome is not None and outcome.entry.seq != row.seq:
        doubts.append(f"its record number is stored as {row.seq}, its bytes give {outcome.entry.seq}")
    if outcome is not None and (outcome.entry.error or "") != (row.error or ""):
        doubts.append(
            f"its error is stored as {row.error or 'none'!r}, its bytes give {outcome.entry.error or 'none'!r}"
        )
    return doubts
