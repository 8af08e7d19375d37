"""Handlers whose messages and answers are those of their step."""

from collections.abc import Sequence

from tradesaga.consumers.participant import Participant, StepContext, Work
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.trade.definition import check_risk, place_order, reserve_funds, settle_trade, trade
from tradesaga.schemas.messages import trade as t

cash = Participant("cash", trade)


@cash.handles(reserve_funds)
async def reserve(event: t.OrderValidated, ctx: StepContext) -> t.FundsReserved | t.FundsRejected:
    """Answer with the event or with the refusal, looking at the typed start."""
    wanted: t.TradeRequested = ctx.get(t.TradeRequested)
    if wanted.side is t.Side.SELL:
        return t.FundsRejected(code="no_position", reason="nothing to sell")
    return t.FundsReserved(asset=event.hold_asset, amount=event.hold)


@cash.compensates(reserve_funds)
async def release(command: t.ReleaseFunds, ctx: StepContext) -> t.FundsReleased:
    """Give back what was set aside."""
    held = ctx.get(t.FundsReserved)
    return t.FundsReleased(asset=held.asset, amount=held.amount)


@cash.handles_batch(settle_trade)
async def settle(works: Sequence[Work[t.TradeFilled]], sql: Connection) -> Sequence[t.TradeSettled]:
    """Answer as many as came, in their order."""
    return [
        t.TradeSettled(
            quantity=work.event.quantity,
            quote_amount=work.event.quote_amount,
            fee=work.event.fee,
            released=work.event.fee,
        )
        for work in works
    ]


@cash.calls(place_order)
async def place(event: t.RiskAccepted, ctx: StepContext) -> t.OrderPlaced:
    """Never refuse: a handler may promise less than its step allows."""
    return t.OrderPlaced(venue="paper", client_order_id=ctx.key, venue_order_id="1")


@cash.handles(check_risk)
async def check(event: t.FundsReserved, ctx: StepContext) -> t.RiskAccepted | t.RiskRejected:
    """Count the exposure."""
    return t.RiskAccepted(exposure=event.amount)
