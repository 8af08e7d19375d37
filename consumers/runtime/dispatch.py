"""Dispatch messages, due rows and finished calls: decide on the row's transition and apply it.

The first half starts attempts and applies their outcomes; the second half chooses what to start.
"""

from collections.abc import Callable, Mapping
from typing import Final

from tradesaga.consumers.participant import Binding
from tradesaga.consumers.runtime import waiting_steps
from tradesaga.consumers.runtime.batch_context import BatchContext, request_of
from tradesaga.consumers.runtime.event_factory import (
    CONTEXT_CEILING,
    Answered,
    CallKind,
    Completion,
    Deferred,
    Failed,
    NotFound,
    Outcome,
    Trigger,
    Unknown,
    pack_message,
    pack_trigger,
    split_packed,
    tidy,
)
from tradesaga.consumers.runtime.local_handlers import Item, run_local
from tradesaga.consumers.runtime.message import Message
from tradesaga.consumers.runtime.step_rows import HELD, Row
from tradesaga.infra.failpoints import Failpoint, reach
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.decide import Action, Due, StepMessage, Transition, decide
from tradesaga.sagas.step import AnyStep
from tradesaga.sagas.step_state import NO_ROW, RowStatus
from tradesaga.schemas.envelope import ContextTooLargeError
from tradesaga.schemas.messages.lifecycle import (
    AttemptFailed,
    CompensationFailed,
    Direction,
    StepFailed,
    StepUnknown,
)


def start_attempt(
    batch: BatchContext, row: Row, binding: Binding, trigger: Trigger, lane: int, *, decided: Transition
) -> None:
    """Start the attempt, or hold the step while it is paused."""
    paused = batch.any_paused and batch.runtime.is_paused(batch.context(row, binding, trigger))
    row.apply(decided)
    if paused:
        _hold(batch, row, trigger, binding.step, lane)
        return
    row.started = batch.runtime.now()
    if binding.remote:
        row.input = row.input or pack_trigger(trigger)
        if not batch.call(CallKind.CALL, row, binding, trigger):
            return
    else:
        batch.local[row.key] = Item(binding, row, trigger, lane, batch.context(row, binding, trigger, local=True))
    if row.attempt > 1:
        batch.count(metrics.STEP_RETRIES, row.step, "forward")


def start_compensation(
    batch: BatchContext, row: Row, binding: Binding, trigger: Trigger, lane: int, *, decided: Transition
) -> None:
    """Start an attempt at the compensation."""
    reach(Failpoint.IN_COMPENSATION)
    row.apply(decided)
    row.started = batch.runtime.now()
    if binding.compensate_remotely is not None:
        if not batch.call(CallKind.COMPENSATE, row, binding, trigger):
            return
    else:
        context = batch.context(row, binding, trigger, local=True, back=True)
        batch.local[row.key] = Item(binding, row, trigger, lane, context, back=True)
    if row.back_attempt > 1:
        batch.count(metrics.STEP_RETRIES, row.step, "back")


def apply_outcome(batch: BatchContext, row: Row, trigger: Trigger, outcome: Outcome, lane: int) -> None:
    """Apply the outcome of a forward attempt to its row."""
    step = batch.step(row, trigger)
    match outcome:
        case Answered(event, value) if isinstance(event, step.emits):
            row.apply(decide(row, StepMessage.SUCCEEDED, step))
            batch.answer(row, batch.runtime.events.make_success(row, trigger, event, value), lane)
        case Answered(event, value) if step.rejects is not None and isinstance(event, step.rejects):
            row.apply(decide(row, StepMessage.REFUSED, step))
            batch.answer(row, batch.runtime.events.make_event(row, trigger, event, value), lane)
        case Failed():
            _fail(batch, row, trigger, outcome, lane)
        case Unknown(reason, first_report):
            message = StepMessage.UNKNOWN if first_report else StepMessage.STILL_UNKNOWN
            apply_transition(batch, row, trigger, decide(row, message, step), lane, reason=reason)
        case Deferred():
            _defer(batch, row, trigger, step)
        case NotFound():
            _apply_not_found(batch, row, trigger, lane)
        case _:
            _fail(batch, row, trigger, Failed("the handler returned an event that its step does not emit"), lane)


def apply_compensation_outcome(batch: BatchContext, row: Row, trigger: Trigger, outcome: Outcome, lane: int) -> None:
    """Apply the outcome of a compensation attempt to its row."""
    step = batch.step(row, trigger)
    if isinstance(outcome, Answered) and step.back is not None and isinstance(outcome.event, step.back[1]):
        row.apply(decide(row, StepMessage.COMPENSATED, step))
        batch.answer_compensation(
            row, batch.runtime.events.make_event(row, trigger, outcome.event, outcome.value, back=True), lane
        )
        return
    if isinstance(outcome, Deferred):
        apply_transition(batch, row, trigger, decide(row, StepMessage.COMPENSATION_DEFERRED, step), lane)
        return
    reason = (
        outcome.reason
        if isinstance(outcome, Failed | Unknown)
        else "the handler returned an event that the compensation does not emit"
    )
    final = isinstance(outcome, Failed) and outcome.final
    message = StepMessage.COMPENSATION_FAILED_FOR_GOOD if final else StepMessage.COMPENSATION_ATTEMPT_FAILED
    batch.count(metrics.STEP_ATTEMPTS_FAILED, row.step, "back")
    apply_transition(batch, row, trigger, decide(row, message, step), lane, reason=reason)


def apply_transition(
    batch: BatchContext, row: Row, trigger: Trigger | None, decided: Transition, lane: int, *, reason: str = ""
) -> None:
    """Apply a transition in which no handler's event is published, but the participant's own answer or report."""
    row.apply(decided)
    match decided.action:
        case Action.ANSWER if decided.status is RowStatus.BARRED:
            batch.answer_barred(row, trigger, lane)
        case Action.ANSWER:
            fact = StepFailed(step=row.step, attempts=row.attempt, reason=tidy(reason))
            batch.answer(row, batch.make_event(row, trigger, fact), lane)
        case Action.ANSWER_COMPENSATION:
            fact = CompensationFailed(step=row.step, attempts=row.back_attempt, reason=tidy(reason))
            batch.answer_compensation(row, batch.make_event(row, trigger, fact, back=True), lane)
        case _:
            row.wait = batch.wait(decided.due, row, batch.step(row, trigger)) if trigger is not None else None
            batch.touch(row)
            _report(batch, row, trigger, decided.action, lane, reason=reason)


def _report(batch: BatchContext, row: Row, trigger: Trigger | None, action: Action, lane: int, *, reason: str) -> None:
    """Report a failed attempt or an unknown outcome of a step that is not answered yet."""
    if action is Action.REPORT_ATTEMPT:
        back = row.status is RowStatus.COMPENSATING
        direction: Direction = "back" if back else "forward"
        attempt = row.back_attempt if back else row.attempt
        fact = AttemptFailed(step=row.step, direction=direction, attempt=attempt, reason=tidy(reason))
        batch.transaction.emit(lane, batch.make_event(row, trigger, fact, back=back))
    elif action is Action.REPORT_UNKNOWN:
        fact = StepUnknown(step=row.step, attempt=row.attempt, reason=tidy(reason))
        batch.transaction.emit(lane, batch.make_event(row, trigger, fact))
        batch.count(metrics.STEPS_EXECUTED, row.step, "unknown")


def _fail(batch: BatchContext, row: Row, trigger: Trigger, failed: Failed, lane: int) -> None:
    step = batch.step(row, trigger)
    batch.count(metrics.STEP_ATTEMPTS_FAILED, row.step, "forward")
    row.input = row.input or pack_trigger(trigger)
    message = StepMessage.FAILED_FOR_GOOD if failed.final else StepMessage.FAILED
    apply_transition(batch, row, trigger, decide(row, message, step), lane, reason=failed.reason)


def _defer(batch: BatchContext, row: Row, trigger: Trigger, step: AnyStep, wait: float = 0.0) -> None:
    """Put an attempt off: store its input and make the row due in `wait` seconds."""
    row.apply(decide(row, StepMessage.DEFERRED, step))
    row.input, row.wait = row.input or pack_trigger(trigger), wait
    batch.touch(row)


def _hold(batch: BatchContext, row: Row, trigger: Trigger, step: AnyStep, lane: int) -> None:
    """Put an attempt off until a pause ends: the row is written once, however often it is looked at meanwhile.

    It is put on the lane of this batch, because the owner of another one would not know of it.
    """
    batch.held.add(lane)
    if row.held:
        row.apply(decide(row, StepMessage.DEFERRED, step))
    else:
        row.lane = lane
        _defer(batch, row, trigger, step, HELD)


def _apply_not_found(batch: BatchContext, row: Row, trigger: Trigger, lane: int) -> None:
    """Treat "not found" as a failure once the attempt has expired at the remote system, allowing for clock skew.

    Both the wall clock and the monotonic clock must have passed the expiry: the first may jump, the second may stop
    while the machine sleeps.
    """
    runtime = batch.runtime
    void_ns = int(batch.step(row, trigger).timeout.total_seconds() * 1e9) + runtime.skew_ns
    left = max((row.started + void_ns - runtime.now()) / 1e9, void_ns / 1e9 - runtime.calls.age(row.key))
    if left <= 0:
        runtime.calls.forget(row.key)
        _fail(batch, row, trigger, Failed("the remote system has no such request, and the attempt has expired"), lane)
    else:
        # At most the time of one attempt: a wall clock that is far behind now may be corrected by then.
        row.wait = min(left, void_ns / 1e9)
        batch.touch(row)


def handle_message(batch: BatchContext, message: Message) -> None:
    """Process a message; local handlers due for the same row must have been flushed."""
    row = batch.rows.get(message.key)
    if message.kind is StepMessage.REPORT:
        waiting_steps.handle_report(batch, message, row)
        return
    decided = decide(row or NO_ROW, message.kind, message.binding.step, message.envelope.round)
    if (act := _ACTS.get(decided.action)) is not None:
        act(batch, message, row, decided)


def handle_due(batch: BatchContext, row: Row) -> None:
    """Process a row that is due."""
    decided = decide(row, StepMessage.DUE, batch.runtime.bindings.newest(row.step).step)
    match decided.action:
        case Action.RUN:
            trigger = batch.stored(row.input)
            start_attempt(batch, row, batch.binding(row, trigger), trigger, row.lane, decided=decided)
        case Action.COMPENSATE:
            trigger = batch.stored(row.back_input)
            start_compensation(batch, row, batch.binding(row, trigger), trigger, row.lane, decided=decided)
        case Action.QUERY | Action.POLL | Action.BAR_FAR_SIDE:
            trigger = waiting_steps.trigger_of(batch, row)
            batch.call(_CALLS[decided.action], row, batch.binding(row, trigger), trigger)
        case _:
            row.wait = None
            batch.touch(row)


def handle_completion(batch: BatchContext, completion: Completion) -> None:
    """Apply the outcome of a call, if its row is still at the attempt for which the call was made."""
    row = batch.rows.get(completion.key)
    if row is None or row.lane not in batch.transaction.lanes:
        return
    outcome = completion.outcome
    match completion.kind:
        case CallKind.COMPENSATE if (row.status, row.back_attempt) == (RowStatus.COMPENSATING, completion.attempt):
            apply_compensation_outcome(batch, row, batch.stored(row.back_input), outcome, row.lane)
        case CallKind.POLL | CallKind.BAR if row.status is RowStatus.WAITING:
            waiting_steps.handle_reported(batch, row, completion)
        case CallKind.CALL | CallKind.QUERY if (row.status, row.attempt) == (RowStatus.INTENT, completion.attempt):
            apply_outcome(batch, row, batch.stored(row.input), outcome, row.lane)
        case _:
            return


async def flush(batch: BatchContext) -> None:
    """Run the due local handlers, grouped by step and direction, and apply their outcomes."""
    items, batch.local = list(batch.local.values()), {}
    groups: dict[tuple[int, bool], list[Item]] = {}
    for item in items:
        groups.setdefault((id(item.binding), item.back), []).append(item)
    for (_, back), group in groups.items():
        watch = batch.runtime.watch
        outcomes = await run_local(group[0].binding, group, batch.transaction.sql, batch.budget, watch)
        finish = apply_compensation_outcome if back else apply_outcome
        for item, outcome in zip(group, outcomes, strict=True):
            finish(batch, item.row, item.trigger, outcome, item.lane)


def _run(batch: BatchContext, message: Message, row: Row | None, decided: Transition) -> None:
    """Start the first attempt; in a later round, from the stored trigger."""
    trigger = batch.stored(row.input) if row is not None else _readable(message)
    row = row or batch.open_row(message, RowStatus.INTENT)
    start_attempt(batch, row, message.binding, trigger, message.lane, decided=decided)


def _readable(message: Message) -> Trigger:
    """Read a trigger; raises `ValueError` if its step cannot start with it."""
    trigger = Trigger.of(message)
    trigger.read()
    if len(trigger.envelope.context) > CONTEXT_CEILING:
        size = len(trigger.envelope.context)
        raise ContextTooLargeError(f"context of {size} bytes passes the ceiling of {CONTEXT_CEILING}; carry a dataref")
    return trigger


def _store_input(batch: BatchContext, message: Message, row: Row | None, decided: Transition) -> None:
    """Store a trigger of a waiting step or a join; conclude or run the step once all triggers are there."""
    row = row or batch.open_row(message, RowStatus.WAITING)
    binding, triggers = message.binding, [batch.stored(each) for each in split_packed(row.input)]
    if message.envelope.type not in {trigger.envelope.type for trigger in triggers}:
        triggers.append(_readable(message))
        row.input = (row.input or b"") + pack_message(message)
    row.apply(decided)
    row.lane = message.lane
    batch.touch(row)
    if len(triggers) < len(binding.step.on):
        return
    complete = decide(row, StepMessage.INPUTS_COMPLETE, binding.step)
    if complete.action is Action.CONCLUDE:
        batch.apply(row, complete, binding.step)
        waiting_steps.conclude(batch, row, message.lane)
    else:
        start_attempt(batch, row, binding, batch.stored(row.input), message.lane, decided=complete)


def _conclude(batch: BatchContext, message: Message, row: Row | None, decided: Transition) -> None:
    """Put a waiting step back to waiting in a later round; it is polled when it is due."""
    if row is not None:
        batch.stored(row.input).read()
        batch.apply(row, decided, message.binding.step)
        waiting_steps.conclude(batch, row, message.lane)


def _wake(batch: BatchContext, _message: Message, row: Row | None, _decided: Transition) -> None:
    if row is not None and not batch.under_way(row):
        row.wait = 0.0
        batch.touch(row)


def _settle(batch: BatchContext, message: Message, row: Row | None, decided: Transition) -> None:
    if row is not None:
        due = Due.CALL if batch.under_way(row) else decided.due
        batch.apply(row, decided._replace(due=due), message.binding.step)


def _bar_far_side(batch: BatchContext, message: Message, row: Row | None, decided: Transition) -> None:
    """Answer the bar if the reports suffice; otherwise ask the remote system to end what the step waits for."""
    row = row or batch.open_row(message, RowStatus.WAITING)
    row.apply(decided)
    row.back_input = row.back_input or pack_message(message)
    if not waiting_steps.conclude(batch, row, message.lane):
        batch.call(CallKind.BAR, row, message.binding, waiting_steps.trigger_of(batch, row))


def _compensate(batch: BatchContext, message: Message, row: Row | None, decided: Transition) -> None:
    if row is not None:
        trigger = Trigger.of(message)
        trigger.read()
        row.back_input = pack_message(message)
        start_compensation(batch, row, message.binding, trigger, message.lane, decided=decided)


def _answer(batch: BatchContext, message: Message, row: Row | None, decided: Transition) -> None:
    """Answer a bar, or a compensation with nothing to compensate."""
    found = row.status.name if row else "no row"
    row = row or batch.open_row(message, RowStatus.BARRED)
    reason = f"there is nothing to compensate: {found}"
    apply_transition(batch, row, Trigger.of(message), decided, message.lane, reason=reason)


def _repeat_answer(batch: BatchContext, message: Message, row: Row | None, _decided: Transition) -> None:
    """Publish the stored answer again; after a trigger, only if both have the same request hash."""
    if row is not None:
        other = message.kind is StepMessage.TRIGGER and request_of(row.answer) not in {"", message.envelope.request}
        batch.emit_again(message.lane, None if other else row.answer)


def _repeat_compensation_answer(batch: BatchContext, message: Message, row: Row | None, _decided: Transition) -> None:
    batch.emit_again(message.lane, row.back_answer if row else None)


_ACTS: Final[Mapping[Action, Callable[[BatchContext, Message, Row | None, Transition], None]]] = {
    Action.RUN: _run,
    Action.STORE_INPUT: _store_input,
    Action.CONCLUDE: _conclude,
    Action.WAKE: _wake,
    Action.SETTLE: _settle,
    Action.BAR_FAR_SIDE: _bar_far_side,
    Action.COMPENSATE: _compensate,
    Action.ANSWER: _answer,
    Action.ANSWER_COMPENSATION: _answer,
    Action.REPEAT_ANSWER: _repeat_answer,
    Action.REPEAT_COMPENSATION_ANSWER: _repeat_compensation_answer,
}

_CALLS: Final = {Action.QUERY: CallKind.QUERY, Action.POLL: CallKind.POLL, Action.BAR_FAR_SIDE: CallKind.BAR}
