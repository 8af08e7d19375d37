"""Beginning an attempt, and writing down what came of it."""

from tradesaga.consumers.participant import Binding
from tradesaga.consumers.runtime.batch_context import Docket
from tradesaga.consumers.runtime.event_factory import tidy
from tradesaga.consumers.runtime.local_handlers import Item
from tradesaga.consumers.runtime.outcome import Absent, Answered, CallKind, Failed, Outcome, Postponed, Unknown
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.consumers.runtime.trigger import Cause, frame
from tradesaga.infra.failpoints import Failpoint, reach
from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.step import Kind
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


def run(docket: Docket, row: Row, binding: Binding, cause: Cause, lane: int) -> None:
    """Begin the next attempt, unless a hold keeps the step from starting; `row.attempt` is that of the last one."""
    if docket.holding and docket.around.held(docket.context(row, binding, cause)):
        row.status, row.wait, row.input = RowStatus.RETRY, HOLD_AGAIN, row.input or frame(cause)
        docket.touch(row)
        return
    row.attempt += 1
    row.started = docket.around.now()
    if binding.remote:
        row.status, row.input = RowStatus.INTENT, row.input or frame(cause)
        if not docket.call(CallKind.CALL, row, binding, cause):
            return
    else:
        docket.local[row.key] = Item(binding, row, cause, lane, docket.context(row, binding, cause, local=True))
    if row.attempt > 1:
        docket.count(metrics.STEP_RETRIES, row.step, "forward")


def undo(docket: Docket, row: Row, binding: Binding, cause: Cause, lane: int) -> None:
    """Begin the next attempt at a compensation."""
    reach(Failpoint.IN_COMPENSATION)
    row.back_attempt += 1
    row.started = docket.around.now()
    if binding.undo is not None:
        row.status = RowStatus.COMPENSATING
        if not docket.call(CallKind.UNDO, row, binding, cause):
            return
    else:
        context = docket.context(row, binding, cause, local=True, back=True)
        docket.local[row.key] = Item(binding, row, cause, lane, context, back=True)
    if row.back_attempt > 1:
        docket.count(metrics.STEP_RETRIES, row.step, "back")


def settle(docket: Docket, row: Row, cause: Cause, outcome: Outcome, lane: int) -> None:
    """Write down what came of a forward attempt, and say it."""
    step = docket.step(row, cause)
    speaker = docket.around.speaker
    match outcome:
        case Answered(event, value) if isinstance(event, step.emits):
            docket.answer(row, RowStatus.DONE, speaker.say_done(row, cause, event, value), lane)
        case Answered(event, value) if step.rejects is not None and isinstance(event, step.rejects):
            docket.answer(row, RowStatus.REFUSED, speaker.say(row, cause, event, value), lane)
        case Failed():
            _fail(docket, row, cause, outcome, lane)
        case Unknown():
            _ask_again(docket, row, cause, outcome, lane)
        case Postponed():
            row.attempt, row.status, row.wait, row.input = (
                row.attempt - 1,
                RowStatus.RETRY,
                0.0,
                row.input or frame(cause),
            )
            docket.touch(row)
        case Absent():
            _absent(docket, row, cause, lane)
        case _:
            _fail(docket, row, cause, Failed("the handler returned an event that is not its step's"), lane)


def _fail(docket: Docket, row: Row, cause: Cause, failed: Failed, lane: int) -> None:
    """Go on to the next attempt, or end: barred if a bar waits for it, failed if attempts are out."""
    retry = docket.step(row, cause).retry
    docket.count(metrics.STEP_ATTEMPTS_FAILED, row.step, "forward")
    row.input = row.input or frame(cause)
    if row.bar_seen:
        bar(docket, row, cause, lane)
    elif failed.final or row.attempt >= retry.attempts:
        fact = StepFailed(step=row.step, attempts=row.attempt, reason=tidy(failed.reason))
        docket.answer(row, RowStatus.FAILED, docket.say(row, cause, fact), lane)
    else:
        row.status, row.wait = RowStatus.RETRY, retry.delay(row.attempt, docket.around.chance()).total_seconds()
        docket.touch(row)
        docket.transaction.emit(lane, _attempt(docket, row, cause, failed.reason))


def _ask_again(docket: Docket, row: Row, cause: Cause, unknown: Unknown, lane: int) -> None:
    """Tell, once an attempt, that nobody knows, so that the saga can be settled; then ask until somebody does."""
    if unknown.news and not row.bar_seen and docket.step(row, cause).kind is not Kind.RETRIABLE:
        fact = StepUnknown(step=row.step, attempt=row.attempt, reason=tidy(unknown.reason))
        docket.transaction.emit(lane, docket.say(row, cause, fact))
        docket.count(metrics.STEPS_EXECUTED, row.step, "unknown")
    row.wait = 0.1 + 0.9 * docket.around.chance()
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


def bar(docket: Docket, row: Row, cause: Cause, lane: int) -> None:
    """Close the step for good: it has not happened, and will not."""
    docket.answer(row, RowStatus.BARRED, docket.say(row, cause, StepBarred(step=row.step)), lane)


def settle_undo(docket: Docket, row: Row, cause: Cause, outcome: Outcome, lane: int) -> None:
    """Write down what came of an attempt at a compensation, and say it."""
    step = docket.step(row, cause)
    if isinstance(outcome, Answered) and step.back is not None and isinstance(outcome.event, step.back[1]):
        said = docket.around.speaker.say(row, cause, outcome.event, outcome.value, back=True)
        docket.answer_back(row, RowStatus.COMPENSATED, said, lane)
        return
    if isinstance(outcome, Postponed):
        row.back_attempt, row.status, row.wait = row.back_attempt - 1, RowStatus.COMPENSATING, 0.0
        docket.touch(row)
        return
    reason = outcome.reason if isinstance(outcome, Failed | Unknown) else "the answer is not the compensation's"
    final = isinstance(outcome, Failed) and outcome.final
    docket.count(metrics.STEP_ATTEMPTS_FAILED, row.step, "back")
    if final or row.back_attempt >= step.undo_retry.attempts:
        fail_undo(docket, row, cause, reason, lane)
        return
    row.status = RowStatus.COMPENSATING
    row.wait = step.undo_retry.delay(row.back_attempt, docket.around.chance()).total_seconds()
    docket.touch(row)
    docket.transaction.emit(lane, _attempt(docket, row, cause, reason, back=True))


def fail_undo(docket: Docket, row: Row, cause: Cause | None, reason: str, lane: int) -> None:
    """Give the compensation up, for this round: what the step did still stands."""
    fact = CompensationFailed(step=row.step, attempts=row.back_attempt, reason=tidy(reason))
    docket.answer_back(row, RowStatus.COMPENSATION_FAILED, docket.say(row, cause, fact, back=True), lane)


def _attempt(docket: Docket, row: Row, cause: Cause, reason: str, *, back: bool = False) -> Outgoing:
    direction: Direction = "back" if back else "forward"
    attempt = row.back_attempt if back else row.attempt
    fact = AttemptFailed(step=row.step, direction=direction, attempt=attempt, reason=tidy(reason))
    return docket.say(row, cause, fact, back=back)
