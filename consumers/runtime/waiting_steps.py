"""Process reports for waiting steps, which answer once trigger and reports are both there.

Stored reports are read for a whole batch at once, and only where they may complete a step: reading all reports of a
saga for each new one would take quadratic time.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from pydantic import ValidationError

from tradesaga.consumers.context import ReportStore
from tradesaga.consumers.participant import Binding, Participant
from tradesaga.consumers.runtime.batch_context import BatchContext, Report
from tradesaga.consumers.runtime.event_factory import Completion, Reported, Trigger, check_size, split_packed, tidy
from tradesaga.consumers.runtime.message import Message
from tradesaga.consumers.runtime.step_rows import Key, Row
from tradesaga.infra.kafka.codec import unpack
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.decide import Action, StepMessage, decide
from tradesaga.sagas.step_state import NO_ROW, RowStatus
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.lifecycle import StepContradicted
from tradesaga.schemas.messages.message import Event
from tradesaga.schemas.messages.message import Message as Payload


class Kept(NamedTuple):
    """A step's report store, and the function that returns a report's id."""

    store: ReportStore
    correlate: Callable[[Any], str]


Stores = Mapping[str, Kept]
"""By step."""


def stores_of(participant: Participant) -> Stores:
    """Return the stores of a participant's steps."""
    return {
        name: Kept(binding.store, binding.correlate)
        for name, binding in participant.bindings.items()
        if binding.store is not None and binding.correlate is not None
    }


async def read_reports(
    stores: Stores,
    sql: Connection,
    messages: Sequence[Message],
    completions: Sequence[Completion],
    rows: Mapping[Key, Row],
) -> tuple[Mapping[Key, Sequence[Event]], set[Report]]:
    """Store the reports that polls and bars returned, and read those that may complete a step of this batch.

    Returns them, and the late reports that answers already include. Three statements for each store.
    """
    found: dict[Key, Sequence[Event]] = {}
    counted: set[Report] = set()
    open_, late = _may_answer(messages, completions, rows), _late(stores, messages, rows)
    for step, (store, _) in stores.items():
        brought = [
            (each.saga_id, report)
            for each in completions
            if each.step == step and isinstance(each.outcome, Reported)
            for report in each.outcome.reports
        ]
        if brought:
            await store.save(sql, brought)
        if sagas := sorted({saga_id for saga_id, name in open_ if name == step}):
            stored = await store.load(sql, sagas)
            found |= {(saga_id, step): reports for saga_id, reports in stored.items()}
        if asked := late.get(step):
            counted |= {(saga_id, step, ident) for saga_id, ident in await store.find_counted(sql, asked)}
    return found, counted


async def mark_counted(stores: Stores, sql: Connection, reports: Collection[Report]) -> None:
    """Mark the reports that the answers of this batch include: one statement for each store."""
    by_step: dict[str, list[tuple[UUID, str]]] = {}
    for saga_id, step, ident in reports:
        by_step.setdefault(step, []).append((saga_id, ident))
    for step, counted in by_step.items():
        await stores[step].store.mark_counted(sql, counted)


def _may_answer(messages: Sequence[Message], completions: Sequence[Completion], rows: Mapping[Key, Row]) -> set[Key]:
    """Return the keys of the rows that this batch may complete."""
    reported = {each.key for each in messages if each.kind is StepMessage.REPORT}
    others = {each.key for each in messages if each.kind is not StepMessage.REPORT} | {each.key for each in completions}
    waiting = {
        key
        for key in reported
        if (row := rows.get(key)) is not None and row.status is RowStatus.WAITING and (row.input or row.bar_seen)
    }
    return waiting | {key for key in others if _is_open(rows.get(key))}


def _is_open(row: Row | None) -> bool:
    return row is None or row.status in {RowStatus.WAITING, RowStatus.FAILED}


def _late(stores: Stores, messages: Sequence[Message], rows: Mapping[Key, Row]) -> Mapping[str, set[tuple[UUID, str]]]:
    """Return, by step, the reports for rows that are already answered."""
    found: dict[str, set[tuple[UUID, str]]] = {}
    for each in messages:
        kept, row = stores.get(each.key[1]), rows.get(each.key)
        if (
            each.kind is StepMessage.REPORT
            and kept is not None
            and row is not None
            and row.status is not RowStatus.WAITING
        ):
            with suppress(ValidationError):  # reported when the message is processed
                ident = kept.correlate(each.payload.from_wire(each.value))
                found.setdefault(each.key[1], set()).add((each.saga_id, ident))
    return found


REPORTS_LIMIT = 256 * 1024
"""Bytes of reports in a row above which records add no more: all are parsed for each batch that adds one."""

_CONTRADICTED = "!"
"""Prefix of the id of a report that has been published as a contradiction."""


def handle_report(batch: BatchContext, message: Message, row: Row | None) -> None:
    """Store a report, and answer the step if it is complete; or publish that the report contradicts the answer."""
    if message.binding.store is not None and (row is None or row.status is RowStatus.WAITING):
        _look_into_store(batch, message, row)
        return
    report = message.payload.from_wire(message.value)
    decided = decide(row or NO_ROW, StepMessage.REPORT, message.binding.step)
    row = row or batch.open_row(message, RowStatus.WAITING)
    binding = batch.runtime.bindings.of(row)
    size = batch.kept_bytes.get(row.key, len(row.reports or b""))
    if binding.store is None and size > REPORTS_LIMIT:
        raise ValueError(f"its step keeps {size} bytes of reports, and takes more from a poll alone")
    if decided.action is Action.CHECK_REPORT:
        _contradict(batch, message, row, binding, report)
    elif _add_reports(batch, row, binding, [report]):
        waits = row.input or row.bar_seen
        row.wait = binding.step.timeout.total_seconds() if waits else None
        batch.touch(row)
        batch.concluding[row.key] = message.lane


def conclude_reported(batch: BatchContext, key: Key) -> None:
    """Answer the step if the reports of this batch suffice; called before its next message is processed."""
    lane = batch.concluding.pop(key, None)
    if lane is not None:
        conclude(batch, batch.rows[key], lane)


def write_reports(batch: BatchContext) -> None:
    """Serialize the reports into the rows to be written, after the whole batch has been processed."""
    for key, known in batch.kept.items():
        if known and key in batch.dirty:
            batch.rows[key].reports = orjson.dumps(known)


def _look_into_store(batch: BatchContext, message: Message, row: Row | None) -> None:
    """Answer the step if the stored reports suffice. Without a row there is no trigger yet; it will find them."""
    if row is not None and (row.input or row.bar_seen) and row.key not in batch.dirty:
        row.wait = message.binding.step.timeout.total_seconds()
        batch.touch(row)
        conclude(batch, row, message.lane)


def handle_reported(batch: BatchContext, row: Row, completion: Completion) -> None:
    """Apply the reports that a poll or a bar returned."""
    binding = batch.runtime.bindings.of(row)
    if isinstance(completion.outcome, Reported) and binding.store is None:
        _add_reports(batch, row, binding, completion.outcome.reports)
    batch.apply(row, decide(row, StepMessage.POLLED, binding.step), binding.step)
    conclude(batch, row, row.lane)


def conclude(batch: BatchContext, row: Row, lane: int) -> bool:
    """Answer the step if the reports suffice and a trigger or a bar is there; returns whether it is answered."""
    binding = batch.runtime.bindings.of(row)
    if len(split_packed(row.input)) < len(binding.step.on) and not row.bar_seen:
        return False
    trigger = trigger_of(batch, row)
    binding = batch.binding(row, trigger)
    try:
        answer, value = _conclusion(batch, row, binding, trigger)
    except Exception as error:  # noqa: BLE001 - the step's outcome is not known: it stays waiting and is polled again
        batch.context(row, binding, trigger).log.error("no conclusion", exc_info=error)
        return False
    if answer is None:
        return False
    if binding.correlate is not None:
        counted = map(binding.correlate, batch.reports.get(row.key, ()))
        batch.counted |= {(*row.key, ident) for ident in counted}
    succeeded = isinstance(answer, binding.step.emits)
    row.apply(decide(row, StepMessage.SUCCEEDED if succeeded else StepMessage.REFUSED, binding.step))
    if row.status is RowStatus.BARRED:
        batch.answer_barred(row, trigger, lane)
        return True
    events = batch.runtime.events
    make = events.make_success if succeeded else events.make_event
    batch.answer(row, make(row, trigger, answer, value), lane)
    return True


def trigger_of(batch: BatchContext, row: Row) -> Trigger:
    """Return the trigger or, if there is only a bar, the bar, which carries the context too."""
    return batch.stored(row.input or row.back_input)


def _conclusion(batch: BatchContext, row: Row, binding: Binding, trigger: Trigger) -> tuple[Event | None, bytes]:
    if binding.conclude is None or binding.step.waits_for is None:
        raise RuntimeError(f"step {row.step!r} does not wait; Participant.check was not called")
    # Reports that an older release or a recovery has put into the row count besides those in the store.
    kept = [
        binding.step.waits_for.from_wire(orjson.dumps(raw)) for raw in _reports(batch, row).values() if raw is not None
    ]
    answer = binding.conclude([*batch.reports.get(row.key, ()), *kept], batch.context(row, binding, trigger))
    if answer is None:
        return None, b""
    if not isinstance(answer, (binding.step.emits, binding.step.rejects or binding.step.emits)):
        raise TypeError(f"{type(answer).__name__} is no answer of {row.step!r}")
    value = answer.to_wire()
    check_size(answer, value)
    return answer, value


def _reports(batch: BatchContext, row: Row) -> dict[str, object]:
    """Return a row's reports by id, parsed once a batch; `write_reports` serializes them."""
    if row.key not in batch.kept:
        batch.kept[row.key] = orjson.loads(row.reports) if row.reports else {}
        batch.kept_bytes[row.key] = len(row.reports or b"")
    return batch.kept[row.key]


def _keep(batch: BatchContext, row: Row, ident: str, value: object) -> None:
    """Add an entry to a row's reports, and its bytes to their size."""
    known = _reports(batch, row)
    known[ident] = value
    # The braces of an object of one entry become a comma in an object of several.
    batch.kept_bytes[row.key] += len(orjson.dumps({ident: value})) - (len(known) > 1)


def _add_reports(batch: BatchContext, row: Row, binding: Binding, reports: Sequence[Payload]) -> bool:
    """Add reports under the remote system's ids; returns whether any was new."""
    known = _reports(batch, row)
    before = len(known)
    for report in reports:
        if binding.correlate is not None and (ident := binding.correlate(report)) not in known:
            _keep(batch, row, ident, orjson.loads(report.to_wire()))
    return len(known) > before


def _contradict(batch: BatchContext, message: Message, row: Row, binding: Binding, report: Payload) -> None:
    if binding.contradict is None or binding.correlate is None:
        return
    venue_id = binding.correlate(report)
    known = _reports(batch, row)
    reason = binding.contradict(_answered(row, binding), report)
    if reason is None or venue_id in known or _CONTRADICTED + venue_id in known:
        return
    if binding.store is None:
        _keep(batch, row, _CONTRADICTED + venue_id, None)
        batch.touch(row)
    elif (told := (*row.key, venue_id)) in batch.late or told in batch.counted:
        return
    else:
        batch.counted.add(told)
    fact = StepContradicted(step=row.step, venue_id=venue_id, reason=tidy(reason))
    batch.transaction.emit(message.lane, batch.make_event(row, Trigger.of(message), fact))
    batch.count(metrics.CONTRADICTIONS, row.step)


def _answered(row: Row, binding: Binding) -> Event | None:
    """Return the step's answer; None if it was barred or failed."""
    if row.status is RowStatus.BARRED or row.answer is None:
        return None
    headers, value = unpack(row.answer)
    name = Envelope.from_headers(headers).type.split(".")[-2]
    for made in (binding.step.emits, binding.step.rejects):
        if made is not None and name == made.NAME:
            return made.read(value)
    return None
