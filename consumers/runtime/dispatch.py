"""From a message, a due row or a finished call to the decision on its row, and what the participant does then."""

from collections.abc import Callable, Mapping
from typing import Final

from tradesaga.consumers.runtime import waiting_steps
from tradesaga.consumers.runtime.apply_outcome import carry_out, run, settle, settle_undo, undo
from tradesaga.consumers.runtime.batch_context import Docket, request_of
from tradesaga.consumers.runtime.event_factory import CONTEXT_CEILING
from tradesaga.consumers.runtime.local_handlers import Item, run_local
from tradesaga.consumers.runtime.message import Message
from tradesaga.consumers.runtime.outcome import CallKind, Completion
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.consumers.runtime.trigger import Cause, keep, split
from tradesaga.sagas.decide import Action, Due, StepMessage, Transition, decide
from tradesaga.sagas.step_state import NO_ROW, RowStatus
from tradesaga.schemas.envelope import ContextTooLargeError


def take(docket: Docket, message: Message) -> None:
    """Decide on a message, and carry it out; local handlers due for the same row must have been flushed."""
    row = docket.rows.get(message.key)
    if message.kind is StepMessage.REPORT:
        waiting_steps.take_report(docket, message, row)
        return
    decided = decide(row or NO_ROW, message.kind, message.binding.step, message.envelope.round)
    if (act := _ACTS.get(decided.action)) is not None:
        act(docket, message, row, decided)


def take_due(docket: Docket, row: Row) -> None:
    """Go on with a row whose time has come."""
    decided = decide(row, StepMessage.DUE, docket.around.bindings.newest(row.step).step)
    match decided.action:
        case Action.RUN:
            cause = docket.stored(row.input)
            run(docket, row, docket.binding(row, cause), cause, row.lane, decided=decided)
        case Action.COMPENSATE:
            cause = docket.stored(row.back_input)
            undo(docket, row, docket.binding(row, cause), cause, row.lane, decided=decided)
        case Action.QUERY | Action.POLL | Action.BAR_FAR_SIDE:
            cause = waiting_steps.cause_of(docket, row)
            docket.call(_CALLS[decided.action], row, docket.binding(row, cause), cause)
        case _:
            row.wait = None
            docket.touch(row)


def take_completion(docket: Docket, completion: Completion) -> None:
    """Take the outcome of a call, if its row is still at the attempt for which the call was made."""
    row = docket.rows.get(completion.key)
    if row is None or row.lane not in docket.transaction.lanes:
        return
    outcome = completion.outcome
    match completion.kind:
        case CallKind.UNDO if (row.status, row.back_attempt) == (RowStatus.COMPENSATING, completion.attempt):
            settle_undo(docket, row, docket.stored(row.back_input), outcome, row.lane)
        case CallKind.POLL | CallKind.BAR if row.status is RowStatus.WAITING:
            waiting_steps.take_answer(docket, row, completion)
        case CallKind.CALL | CallKind.QUERY if (row.status, row.attempt) == (RowStatus.INTENT, completion.attempt):
            settle(docket, row, docket.stored(row.input), outcome, row.lane)
        case _:
            return


async def flush(docket: Docket) -> None:
    """Run the local handlers that are due, all of one step and direction together."""
    items, docket.local = list(docket.local.values()), {}
    groups: dict[tuple[int, bool], list[Item]] = {}
    for item in items:
        groups.setdefault((id(item.binding), item.back), []).append(item)
    for (_, back), group in groups.items():
        watch = docket.around.watch
        outcomes = await run_local(group[0].binding, group, docket.transaction.sql, docket.budget, watch)
        finish = settle_undo if back else settle
        for item, outcome in zip(group, outcomes, strict=True):
            finish(docket, item.row, item.cause, outcome, item.lane)


def _run(docket: Docket, message: Message, row: Row | None, decided: Transition) -> None:
    """Begin the first attempt, or that of a later round from the stored trigger."""
    cause = docket.stored(row.input) if row is not None else _readable(message)
    row = row or docket.open_row(message, RowStatus.INTENT)
    run(docket, row, message.binding, cause, message.lane, decided=decided)


def _readable(message: Message) -> Cause:
    """Return a trigger as a cause; raises `ValueError` for one with which its step cannot begin."""
    cause = Cause.of(message)
    cause.read()
    if len(cause.envelope.context) > CONTEXT_CEILING:
        size = len(cause.envelope.context)
        raise ContextTooLargeError(f"context of {size} bytes passes the ceiling of {CONTEXT_CEILING}; carry a dataref")
    return cause


def _store_input(docket: Docket, message: Message, row: Row | None, decided: Transition) -> None:
    """Keep the input of a waiting step or of a join; answer, or run, once all of it is there."""
    row = row or docket.open_row(message, RowStatus.WAITING)
    binding, causes = message.binding, [docket.stored(each) for each in split(row.input)]
    if message.envelope.type not in {cause.envelope.type for cause in causes}:
        causes.append(_readable(message))
        row.input = (row.input or b"") + keep(message)
    row.apply(decided)
    row.lane = message.lane
    docket.touch(row)
    if len(causes) < len(binding.step.on):
        return
    complete = decide(row, StepMessage.INPUTS_COMPLETE, binding.step)
    if complete.action is Action.CONCLUDE:
        row.apply(complete)
        row.wait = docket.wait(complete.due, row, binding.step)
        waiting_steps.conclude(docket, row, message.lane)
    else:
        run(docket, row, binding, docket.stored(row.input), message.lane, decided=complete)


def _conclude(docket: Docket, message: Message, row: Row | None, decided: Transition) -> None:
    """Go back to waiting in a later round: nothing is run here, the far side is asked in its time."""
    if row is not None:
        docket.stored(row.input).read()
        row.apply(decided)
        row.wait = docket.wait(decided.due, row, message.binding.step)
        docket.touch(row)
        waiting_steps.conclude(docket, row, message.lane)


def _wake(docket: Docket, _message: Message, row: Row | None, _decided: Transition) -> None:
    if row is not None and not docket.under_way(row):
        row.wait = 0.0
        docket.touch(row)


def _settle(docket: Docket, message: Message, row: Row | None, decided: Transition) -> None:
    if row is not None:
        row.apply(decided)
        row.wait = docket.wait(Due.CALL if docket.under_way(row) else decided.due, row, message.binding.step)
        docket.touch(row)


def _bar_far_side(docket: Docket, message: Message, row: Row | None, decided: Transition) -> None:
    """Answer the bar if the reports suffice; else have the far side end what the step waits for."""
    row = row or docket.open_row(message, RowStatus.WAITING)
    row.apply(decided)
    row.back_input = row.back_input or keep(message)
    if not waiting_steps.conclude(docket, row, message.lane):
        docket.call(CallKind.BAR, row, message.binding, waiting_steps.cause_of(docket, row))


def _compensate(docket: Docket, message: Message, row: Row | None, decided: Transition) -> None:
    if row is not None:
        cause = Cause.of(message)
        cause.read()
        row.back_input = keep(message)
        undo(docket, row, message.binding, cause, message.lane, decided=decided)


def _answer(docket: Docket, message: Message, row: Row | None, decided: Transition) -> None:
    """Answer a bar, or a compensation that has nothing to compensate."""
    found = row.status.name if row else "no row"
    row = row or docket.open_row(message, RowStatus.BARRED)
    reason = f"nothing here to take back: {found}"
    carry_out(docket, row, Cause.of(message), decided, message.lane, reason=reason)


def _repeat_answer(docket: Docket, message: Message, row: Row | None, _decided: Transition) -> None:
    """Publish the stored answer again; to a trigger only if it belongs to the start that was answered."""
    if row is not None:
        other = message.kind is StepMessage.TRIGGER and request_of(row.answer) not in {"", message.envelope.request}
        docket.emit_again(message.lane, None if other else row.answer)


def _repeat_compensation_answer(docket: Docket, message: Message, row: Row | None, _decided: Transition) -> None:
    docket.emit_again(message.lane, row.back_answer if row else None)


_ACTS: Final[Mapping[Action, Callable[[Docket, Message, Row | None, Transition], None]]] = {
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
