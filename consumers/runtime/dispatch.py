"""What each message meets: its row, and by the row's status alone, what it may do."""

from tradesaga.consumers.runtime import waiting_steps
from tradesaga.consumers.runtime.apply_outcome import bar, fail_undo, run, settle, settle_undo, undo
from tradesaga.consumers.runtime.batch_context import CALL_MARGIN, Docket, request_of
from tradesaga.consumers.runtime.event_factory import CONTEXT_CEILING
from tradesaga.consumers.runtime.local_handlers import Item, run_local
from tradesaga.consumers.runtime.message import Kind, Message
from tradesaga.consumers.runtime.outcome import CallKind, Completion
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.consumers.runtime.trigger import Cause, keep, split
from tradesaga.sagas.step_state import Reaction, RowStatus, meet_bar, meet_compensation, meet_retry, meet_trigger
from tradesaga.schemas.envelope import ContextTooLargeError


def take(docket: Docket, message: Message) -> None:
    """Judge a message. Its row must be as the database has it: what a handler is about to change is flushed first."""
    row = docket.rows.get(message.key)
    match message.kind:
        case Kind.TRIGGER:
            _take_trigger(docket, message, row)
        case Kind.BAR:
            _take_bar(docket, message, row)
        case Kind.COMPENSATE:
            _take_compensation(docket, message, row)
        case Kind.RETRY:
            _take_retry(docket, message, row)
        case Kind.REPORT:
            waiting_steps.take_report(docket, message, row)


def take_due(docket: Docket, row: Row) -> None:
    """Go on with a row whose time has come."""
    match row.status:
        case RowStatus.RETRY:
            cause = docket.stored(row.input)
            run(docket, row, docket.binding(row, cause), cause, row.lane)
        case RowStatus.INTENT:
            cause = docket.stored(row.input)
            docket.call(CallKind.QUERY, row, docket.binding(row, cause), cause)
        case RowStatus.WAITING:
            kind, cause = CallKind.BAR if row.bar_seen else CallKind.POLL, waiting_steps.cause_of(docket, row)
            docket.call(kind, row, docket.binding(row, cause), cause)
        case RowStatus.COMPENSATING:
            cause = docket.stored(row.back_input)
            undo(docket, row, docket.binding(row, cause), cause, row.lane)
        case _:
            row.wait = None
            docket.touch(row)


def take_completion(docket: Docket, completion: Completion) -> None:
    """Judge the end of a call, if its row is still where the call was made for."""
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


def _take_trigger(docket: Docket, message: Message, row: Row | None) -> None:
    reaction = meet_trigger(row.status if row else None)
    gathers = message.binding.waiting or len(message.binding.step.on) > 1
    if gathers and reaction in {Reaction.RUN, Reaction.STORE}:
        _gather(docket, message, row or docket.open_row(message, RowStatus.WAITING))
    elif row is None:
        cause = _readable(message)
        row = docket.open_row(message, RowStatus.INTENT)
        row.attempt = 0
        run(docket, row, message.binding, cause, message.lane)
    elif reaction is Reaction.QUERY and not docket.under_way(row):
        row.wait = 0.0
        docket.touch(row)
    elif reaction is Reaction.EMIT_AGAIN and request_of(row.answer) in {"", message.envelope.request}:
        docket.emit_again(message.lane, row.answer)


def _readable(message: Message) -> Cause:
    """Give a trigger as a cause; raises `ValueError` for one that its step cannot begin with."""
    cause = Cause.of(message)
    cause.read()
    if len(cause.envelope.context) > CONTEXT_CEILING:
        size = len(cause.envelope.context)
        raise ContextTooLargeError(f"context of {size} bytes passes the ceiling of {CONTEXT_CEILING}; carry a dataref")
    return cause


def _gather(docket: Docket, message: Message, row: Row) -> None:
    """Keep the input of a waiting step or of a join; answer, or run, once all of it is there."""
    binding, causes = message.binding, [docket.stored(each) for each in split(row.input)]
    if message.envelope.type not in {cause.envelope.type for cause in causes}:
        causes.append(_readable(message))
        row.input = (row.input or b"") + keep(message)
    row.lane = message.lane
    docket.touch(row)
    if len(causes) < len(binding.step.on):
        return
    if binding.waiting:
        row.wait = binding.step.timeout.total_seconds()
        waiting_steps.conclude(docket, row, message.lane)
    else:
        row.attempt, row.status = 0, RowStatus.INTENT
        run(docket, row, binding, docket.stored(row.input), message.lane)


def _take_bar(docket: Docket, message: Message, row: Row | None) -> None:
    binding = message.binding
    gathering = row is not None and row.status is RowStatus.WAITING and not binding.waiting
    status = RowStatus.RETRY if gathering else row.status if row else None
    match meet_bar(status, waiting_step=binding.waiting):
        case Reaction.CLOSE:
            bar(docket, row or docket.open_row(message, RowStatus.BARRED), Cause.of(message), message.lane)
        case Reaction.ASK_FAR_SIDE:
            row = row or docket.open_row(message, RowStatus.WAITING)
            row.bar_seen, row.back_input = True, row.back_input or keep(message)
            if not waiting_steps.conclude(docket, row, message.lane):
                docket.call(CallKind.BAR, row, binding, waiting_steps.cause_of(docket, row))
        case Reaction.SETTLE if row is not None:
            row.bar_seen = True
            row.wait = binding.step.timeout.total_seconds() + CALL_MARGIN if docket.under_way(row) else 0.0
            docket.touch(row)
        case _:
            docket.emit_again(message.lane, row.answer if row else None)


def _take_compensation(docket: Docket, message: Message, row: Row | None) -> None:
    round_ = message.envelope.round
    reaction = meet_compensation(row.status if row else None, round_=round_, row_round=row.back_round if row else 0)
    if reaction is Reaction.ALERT:
        found = row.status.name if row else "no row"
        row = row or docket.open_row(message, RowStatus.COMPENSATION_FAILED)
        row.back_round = round_
        fail_undo(docket, row, Cause.of(message), f"nothing here to take back: {found}", message.lane)
    elif row is not None and reaction is Reaction.COMPENSATE:
        cause = Cause.of(message)
        cause.read()
        row.back_round, row.back_attempt, row.back_input = round_, 0, keep(message)
        undo(docket, row, message.binding, cause, message.lane)
    elif row is not None and reaction is Reaction.EMIT_BACK_AGAIN:
        docket.emit_again(message.lane, row.back_answer)


def _take_retry(docket: Docket, message: Message, row: Row | None) -> None:
    if row is None:
        return
    reaction = meet_retry(row.status, round_=message.envelope.round, row_round=row.round)
    if reaction is Reaction.RUN:
        row.round, row.attempt, row.bar_seen = message.envelope.round, 0, False
        cause = docket.stored(row.input)
        if message.binding.waiting:
            cause.read()
            waiting_steps.wait_again(docket, row, message.lane)
        else:
            run(docket, row, message.binding, cause, message.lane)
    elif reaction is Reaction.EMIT_AGAIN:
        docket.emit_again(message.lane, row.answer)
