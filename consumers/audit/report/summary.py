"""Builds the report of a saga: headline, summary and remarks."""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from tradesaga.consumers.audit.log.rows import Position, Row
from tradesaga.consumers.audit.report.formatting import clock, day, listed, read_members, span
from tradesaga.consumers.audit.report.model import Proof, RecordKind, Result, SagaTimeline, Seal, TimelineRecord
from tradesaga.consumers.audit.report.timeline_builder import build_records
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.audit_log.clock_evidence import ClockTally, ClockTier
from tradesaga.sagas.audit_text import AuditText, count
from tradesaga.sagas.status import Status
from tradesaga.schemas.messages.lifecycle import ResolveRequested

_OUTLOOKS: Final = {
    Status.COMPLETED: Result.GOOD,
    Status.ABORTED: Result.BACK,
    Status.COMPENSATING: Result.BACK,
    Status.FAILED: Result.STUCK,
    Status.IDLE: Result.OPEN,
    Status.RUNNING: Result.OPEN,
}


def build_timeline(
    saga_id: UUID,
    name: str,
    rows: Sequence[Row],
    hashes: Sequence[bytes],
    *,
    rules: Rules | None,
    seals: Mapping[Position, Seal],
    tier: ClockTier,
    text: AuditText | None = None,
) -> SagaTimeline:
    """Build the report of a saga from its rows and the hashes of their bytes.

    `rules` are those of its definition, if that is installed, and `text` its own texts, if it has any. A saga whose
    first records were retired cannot be folded.
    """
    numbers = [row.seq for row in rows if row.seq is not None]
    retired = min(numbers) - 1 if numbers else 0
    rules = None if retired else rules
    records, tracked = build_records(saga_id, rows, hashes, rules, seals=seals, text=text)
    status = tracked.snapshot.status if tracked.snapshot is not None else None
    if rules is not None and tracked.snapshot is not None:
        rules = rules.under(tracked.snapshot.version)
    steps = [each.name for each in rules.saga.steps] if rules is not None else []
    steps += [step for step in dict.fromkeys(each.step for each in records) if step and step not in steps]
    waiting = [each.name for each in rules.saga.steps if each.waits_for is not None] if rules is not None else []
    return SagaTimeline(
        saga_id=str(saga_id),
        name=name,
        version=rules.saga.version if rules is not None else None,
        state=status.value if status is not None else "",
        result=Result.UNKNOWN if status is None else _OUTLOOKS[status],
        headline=_headline(name, records, rules, tracked, text),
        summary=tuple(_sentences(records)),
        remarks=(*_unfolded(name, rules, retired), *_remarks(records, tier)),
        steps=tuple(steps),
        waiting=frozenset(waiting),
        records=tuple(records),
    )


def _headline(
    name: str, records: Sequence[TimelineRecord], rules: Rules | None, tracked: Tracked, text: AuditText | None
) -> str:
    snapshot = tracked.snapshot
    if rules is None or snapshot is None:
        return f"{count(len(records), 'record').capitalize()} of a {name!r} saga, described by their content alone"
    missing = listed(rules.machine.missing(snapshot.state))
    closed = [each for each in records if f".{ResolveRequested.NAME}." in each.type and not each.error]
    if snapshot.state.resolved is snapshot.status and closed:
        last = closed[-1]
        return f"Resolved as {snapshot.status} by {last.operator}: {last.reason}"
    match snapshot.status:
        case Status.COMPLETED:
            return _done(records, text)
        case Status.ABORTED:
            return f"Aborted: {_cause(records)}; {_compensations(records)}"
        case Status.COMPENSATING:
            return f"Compensating: {_cause(records)}; waiting for {missing}"
        case Status.FAILED:
            return f"Needs an operator: {rules.stands(snapshot.state) or rules.cause(snapshot.state)}"
        case _:
            return f"In progress; waiting for {missing or 'nothing'}"


def _done(records: Sequence[TimelineRecord], text: AuditText | None) -> str:
    context = {addition.name: read_members(addition.value) for each in records for addition in each.additions}
    steps = sum(1 for each in records if each.kind is RecordKind.STEP_COMPLETE)
    return (text.headline(context) if text is not None else "") or f"Completed: {count(steps, 'step')} done"


def _turn(records: Sequence[TimelineRecord]) -> TimelineRecord | None:
    """Return the record that started compensation."""
    back = {Status.COMPENSATING.value, Status.ABORTED.value}
    return next((each for each in records if each.state in back), None)


def _cause(records: Sequence[TimelineRecord]) -> str:
    turn = _turn(records)
    return "cause not recorded" if turn is None else turn.sentence


def _compensations(records: Sequence[TimelineRecord]) -> str:
    turn, compensated = _turn(records), [each for each in records if each.kind is RecordKind.COMPENSATED]
    if turn is None or not compensated:
        return "no step had to be compensated"
    names = [each.step for each in compensated]
    done = [each.step for each in records if each.kind is RecordKind.STEP_COMPLETE and each.step in names]
    order = ", last step first" if len(names) > 1 and names == done[::-1] else ""
    return f"{count(len(names), 'step')} compensated in {span(max(0, compensated[-1].when - turn.when))}{order}"


def _sentences(records: Sequence[TimelineRecord]) -> list[str]:
    if not records:
        return []
    first, last = min(each.when for each in records), max(each.when for each in records)
    until = clock(last) if day(first) == day(last) else f"{day(last)} {clock(last)}"
    told = [f"{day(first)}, {clock(first)} to {until} UTC: {count(len(records), 'record')} in {span(last - first)}."]
    turn, compensated = _turn(records), [each.step for each in records if each.kind is RecordKind.COMPENSATED]
    if turn is not None and turn.kind is not RecordKind.OPERATOR:
        told.append(f"Reason for compensation: {turn.sentence}" + (f" ({turn.reason})." if turn.reason else "."))
    if compensated:
        told.append(f"Compensated in this order: {', '.join(compensated)}.")
    told += _tries(records)
    told += [f"{each.sentence}: {each.reason}" for each in records if each.kind is RecordKind.OPERATOR]
    for kind in (RecordKind.DUPLICATE, RecordKind.LATE, RecordKind.PARKED):
        if number := sum(1 for each in records if each.kind is kind):
            told.append(f"{count(number, f'{kind} record').capitalize()}.")
    return told


def _tries(records: Sequence[TimelineRecord]) -> list[str]:
    """Return the steps with failed attempts."""
    failed: dict[tuple[str, bool], int] = {}
    for each in records:
        if each.kind in {RecordKind.ATTEMPT_FAILED, RecordKind.STEP_FAILED, RecordKind.COMPENSATION_FAILED}:
            key = (each.step, each.back)
            failed[key] = failed.get(key, 0) + 1
    told: list[str] = []
    for (step, back), number in failed.items():
        what = f"Compensation of {step}" if back else step
        told.append(f"{what} failed {'once' if number == 1 else count(number, 'time')}.")
    return told


def _unfolded(name: str, rules: Rules | None, retired: int) -> list[str]:
    if retired:
        return [f"The saga's first {retired:,} records were retired, so its states cannot be derived."]
    if rules is None:
        what = f"The definition of {name!r} in the version of this saga is not installed here"
        return [f"{what}, so states and commands cannot be derived. Name its module in TRADESAGA_APP."]
    return []


def _remarks(records: Sequence[TimelineRecord], tier: ClockTier) -> list[str]:
    told: list[str] = []
    doubted = sum(1 for each in records if each.remarks)
    if doubted:
        told.append(f"{count(doubted, 'inconsistent record').capitalize()}; run `tradesaga audit verify`.")
    told.append(_sealed(records))
    tally = ClockTally(tier)
    for size, time, error in {(each.seal.size, each.seal.time, each.seal.clock_error) for each in records}:
        if size > 0:
            tally.take(time, error)
    return [*told, *([f"{tally}."] if tally.outside else [])]


def _sealed(records: Sequence[TimelineRecord]) -> str:
    """Return how many records are sealed and proven."""
    by = {proof: [each for each in records if each.seal.proof is proof] for proof in Proof}
    proven, total = by[Proof.PROVEN], len(records)
    if len(proven) == total and total:
        return f"All records are sealed and proven, the last at {clock(max(e.seal.time for e in proven))} UTC."
    told = [
        f"{len(by[proof])} {what}"
        for proof, what in (
            (Proof.PROVEN, "sealed and proven"),
            (Proof.NOT_YET, "not sealed yet"),
            (Proof.UNCHECKED, "not checked"),
            (Proof.UNPROVEN, "NOT PROVEN to be unaltered"),
        )
        if by[proof]
    ]
    return f"Seals of {total} records: {', '.join(told)}."
