"""Wrong handlers: each commented line must be refused, for the reason in it, and no other line."""

from tradesaga.consumers.participant import Participant, StepContext
from tradesaga.sagas.trade.definition import confirm_fill, reserve_funds, settle_trade, trade
from tradesaga.schemas.messages import trade as t

cash = Participant("cash", trade)


@cash.handles(reserve_funds)  # error: OrderValidated
async def wrong_message(event: t.TradeRequested, ctx: StepContext) -> t.FundsReserved:
    """Takes the start instead of its trigger."""
    return t.FundsReserved(asset="USD", amount=event.quantity)


@cash.handles(reserve_funds)  # error: FundsReleased
async def wrong_answer(event: t.OrderValidated, ctx: StepContext) -> t.FundsReleased:
    """Answers with another step's event."""
    return t.FundsReleased(asset="USD", amount=event.hold)


@cash.handles(settle_trade)  # error: TradeUnfilled
async def refuses(event: t.TradeFilled, ctx: StepContext) -> t.TradeSettled | t.TradeUnfilled:
    """Refuses where the step must succeed."""
    return t.TradeUnfilled(status="expired")


@cash.handles(reserve_funds)  # error: Awaitable|CoroutineType|FundsReserved
def not_async(event: t.OrderValidated, ctx: StepContext) -> t.FundsReserved:
    """Is no coroutine function."""
    return t.FundsReserved(asset="USD", amount=event.hold)


@cash.compensates(confirm_fill)  # error: CompensatableStep
async def undo_pivot(command: t.CancelOrder, ctx: StepContext) -> t.OrderCancelled:
    """Takes back what cannot be taken back."""
    return t.OrderCancelled(client_order_id="1")


@cash.compensates(reserve_funds)  # error: ReleaseFunds
async def wrong_command(command: t.CancelOrder, ctx: StepContext) -> t.FundsReleased:
    """Takes another step's command."""
    return t.FundsReleased(asset="USD", amount=ctx.get(t.FundsReserved).amount)


@cash.handles(reserve_funds)
async def unknown_field(event: t.OrderValidated, ctx: StepContext) -> t.FundsReserved:
    """Reads what its message does not have, and asks its context for no event."""
    del event.price  # error: "price" is unknown
    ctx.get(str)  # error: "str"
    return t.FundsReserved(asset=ctx.get(t.OrderValidated).quote, amount=event.hold)
