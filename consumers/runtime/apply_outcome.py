"""Beginning an attempt, and carrying out what is decided on its outcome."""

from tradesaga.consumers.participant import Binding
from tradesaga.consumers.runtime.batch_context import Docket
from tradesaga.consumers.runtime.event_factory import tidy
from tradesaga.consumers.runtime.local_handlers import Item
from tradesaga.consumers.runtime.outcome import Absent, Answered, CallKind, Failed, Outcome, Postponed, Unknown
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.consumers.runtime.trigger import Cause, frame
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

HOLD_AGAIN = 1.0
"""Seconds between two looks at a step that a hold keeps from starting."""


def run(docket: Docket, row: Row, binding: Binding, cause: Cause, lane: int, *, decided: Transition) -> None:
    """Begin the attempt that was decided, unless a hold keeps the step from starting."""
    held = docket.holding and docket.around.held(docket.context(row, binding, cause))
    row.apply(decided)
    if held:
        _defer(docket, row, cause, binding.step, HOLD_AGAIN)
        return
    row.started = docket.around.now()
    if binding.remote:
        row.input = row.input or frame(cause)
        if not docket.call(CallKind.CALL, row, binding, cause):
            return
    else:
        docket.local[row.key] = Item(binding, row, cause, lane, docket.context(row, binding, cause, local=True))
    if row.attempt > 1:
        docket.count(metrics.STEP_RETRIES, row.step, "forward")


def undo(docket: Docket, row: Row, binding: Binding, cause: Cause, lane: int, *, decided: Transition) -> None:
    """Begin the attempt at a compensation that was decided."""
    reach(Failpoint.IN_COMPENSATION)
    row.apply(decided)
    row.started = docket.around.now()
    if binding.undo is not None:
        if not docket.call(CallKind.UNDO, row, binding, cause):
            return
    else:
        context = docket.context(row, binding, cause, local=True, back=True)
        docket.local[row.key] = Item(binding, row, cause, lane, context, back=True)
    if row.back_attempt > 1:
        docket.count(metrics.STEP_RETRIES, row.step, "back")


def settle(docket: Docket, row: Row, cause: Cause, outcome: Outcome, lane: int) -> None:
    """Decide on the outcome of a forward attempt, and carry it out."""
    step = docket.step(row, cause)
    match outcome:
        case Answered(event, value) if isinstance(event, step.emits):
            row.apply(decide(row, StepMessage.SUCCEEDED, step))
            docket.answer(row, docket.around.speaker.say_done(row, cause, event, value), lane)
        case Answered(event, value) if step.rejects is not None and isinstance(event, step.rejects):
            row.apply(decide(row, StepMessage.REFUSED, step))
            docket.answer(row, docket.around.speaker.say(row, cause, event, value), lane)
        case Failed():
            _fail(docket, row, cause, outcome, lane)
        case Unknown(reason, news):
            message = StepMessage.UNKNOWN if news else StepMessage.STILL_UNKNOWN
            carry_out(docket, row, cause, decide(row, message, step), lane, reason=reason)
        case Postponed():
            _defer(docket, row, cause, step, 0.0)
        case Absent():
            _absent(docket, row, cause, lane)
        case _:
            _fail(docket, row, cause, Failed("the handler returned an event that is not its step's"), lane)


def settle_undo(docket: Docket, row: Row, cause: Cause, outcome: Outcome, lane: int) -> None:
    """Decide on the outcome of an attempt at a compensation, and carry it out."""
    step = docket.step(row, cause)
    if isinstance(outcome, Answered) and step.back is not None and isinstance(outcome.event, step.back[1]):
        row.apply(decide(row, StepMessage.COMPENSATED, step))
        docket.answer_back(row, docket.around.speaker.say(row, cause, outcome.event, outcome.value, back=True), lane)
        return
    if isinstance(outcome, Postponed):
        carry_out(docket, row, cause, decide(row, StepMessage.COMPENSATION_DEFERRED, step), lane)
        return
    reason = outcome.reason if isinstance(outcome, Failed | Unknown) else "the answer is not the compensation's"
    final = isinstance(outcome, Failed) and outcome.final
    message = StepMessage.COMPENSATION_FAILED_FOR_GOOD if final else StepMessage.COMPENSATION_ATTEMPT_FAILED
    docket.count(metrics.STEP_ATTEMPTS_FAILED, row.step, "back")
    carry_out(docket, row, cause, decide(row, message, step), lane, reason=reason)


def carry_out(
    docket: Docket, row: Row, cause: Cause | None, decided: Transition, lane: int, *, reason: str = ""
) -> None:
    """Write a decision, and publish what the participant itself answers or reports."""
    row.apply(decided)
    match decided.action:
        case Action.ANSWER if decided.status is RowStatus.BARRED:
            bar(docket, row, cause, lane)
        case Action.ANSWER:
            fact = StepFailed(step=row.step, attempts=row.attempt, reason=tidy(reason))
            docket.answer(row, docket.say(row, cause, fact), lane)
        case Action.ANSWER_COMPENSATION:
            fact = CompensationFailed(step=row.step, attempts=row.back_attempt, reason=tidy(reason))
            docket.answer_back(row, docket.say(row, cause, fact, back=True), lane)
        case _:
            row.wait = docket.wait(decided.due, row, docket.step(row, cause)) if cause is not None else None
            docket.touch(row)
            _report(docket, row, cause, decided.action, lane, reason=reason)


def bar(docket: Docket, row: Row, cause: Cause | None, lane: int) -> None:
    """Answer that the step has not happened, and will not."""
    docket.answer(row, docket.say(row, cause, StepBarred(step=row.step)), lane)


def _report(docket: Docket, row: Row, cause: Cause | None, action: Action, lane: int, *, reason: str) -> None:
    """Publish what is known of an attempt before the step is answered."""
    if action is Action.REPORT_ATTEMPT:
        back = row.status is RowStatus.COMPENSATING
        direction: Direction = "back" if back else "forward"
        attempt = row.back_attempt if back else row.attempt
        fact = AttemptFailed(step=row.step, direction=direction, attempt=attempt, reason=tidy(reason))
        docket.transaction.emit(lane, docket.say(row, cause, fact, back=back))
    elif action is Action.REPORT_UNKNOWN:
        fact = StepUnknown(step=row.step, attempt=row.attempt, reason=tidy(reason))
        docket.transaction.emit(lane, docket.say(row, cause, fact))
        docket.count(metrics.STEPS_EXECUTED, row.step, "unknown")


def _fail(docket: Docket, row: Row, cause: Cause, failed: Failed, lane: int) -> None:
    step = docket.step(row, cause)
    docket.count(metrics.STEP_ATTEMPTS_FAILED, row.step, "forward")
    row.input = row.input or frame(cause)
    message = StepMessage.FAILED_FOR_GOOD if failed.final else StepMessage.FAILED
    carry_out(docket, row, cause, decide(row, message, step), lane, reason=failed.reason)


def _defer(docket: Docket, row: Row, cause: Cause, step: AnyStep, wait: float) -> None:
    """Keep the input of an attempt that is not made now, for later."""
    row.apply(decide(row, StepMessage.DEFERRED, step))
    row.input, row.wait = row.input or frame(cause), wait
    docket.touch(row)


def _absent(docket: Docket, row: Row, cause: Cause, lane: int) -> None:
    """Believe "not found" only once the attempt is void at the far side, its clock being off by the skew at most.

    The wall clock and the time that has really passed must both say so: either alone may have jumped, or slept.
    """
    around = docket.around
    void_ns = int(docket.step(row, cause).timeout.total_seconds() * 1e9) + around.skew_ns
    left = max((row.started + void_ns - around.now()) / 1e9, void_ns / 1e9 - around.calls.age(row.key))
    if left <= 0:
        around.calls.forget(row.key)
        _fail(docket, row, cause, Failed("the far side does not know it, and the attempt is void there"), lane)
    else:
        # Never longer than an attempt takes: a clock that is far behind now may be right again by then.
        row.wait = min(left, void_ns / 1e9)
        docket.touch(row)
