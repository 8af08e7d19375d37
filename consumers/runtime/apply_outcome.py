"""Start attempts, and apply their outcomes to step rows."""

from tradesaga.consumers.participant import Binding
from tradesaga.consumers.runtime.batch_context import BatchContext
from tradesaga.consumers.runtime.event_factory import Trigger, pack_trigger, tidy
from tradesaga.consumers.runtime.local_handlers import Item
from tradesaga.consumers.runtime.outcome import Answered, CallKind, Deferred, Failed, NotFound, Outcome, Unknown
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.infra.failpoints import Failpoint, reach
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.decide import Action, StepMessage, Transition, decide
from tradesaga.sagas.step import AnyStep
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.messages.lifecycle import (
    AttemptFailed,
    CompensationFailed,
    Direction,
    StepBarred,
    StepFailed,
    StepUnknown,
)

PAUSE = 1.0
"""Seconds after which a paused step is checked again."""


def start_attempt(
    batch: BatchContext, row: Row, binding: Binding, trigger: Trigger, lane: int, *, decided: Transition
) -> None:
    """Start the attempt, or defer it while the step is paused."""
    paused = batch.any_paused and batch.runtime.is_paused(batch.context(row, binding, trigger))
    row.apply(decided)
    if paused:
        _defer(batch, row, trigger, binding.step, PAUSE)
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
            _defer(batch, row, trigger, step, 0.0)
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
            answer_barred(batch, row, trigger, lane)
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


def answer_barred(batch: BatchContext, row: Row, trigger: Trigger | None, lane: int) -> None:
    """Answer `StepBarred`: the step has not happened and never will."""
    batch.answer(row, batch.make_event(row, trigger, StepBarred(step=row.step)), lane)


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


def _defer(batch: BatchContext, row: Row, trigger: Trigger, step: AnyStep, wait: float) -> None:
    """Put an attempt off: store its input and make the row due in `wait` seconds."""
    row.apply(decide(row, StepMessage.DEFERRED, step))
    row.input, row.wait = row.input or pack_trigger(trigger), wait
    batch.touch(row)


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
