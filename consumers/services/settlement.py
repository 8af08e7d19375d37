"""Settlement: books what was filled, and releases the rest of the hold."""

from collections.abc import Sequence

from tradesaga.consumers.participant import Participant, Work
from tradesaga.consumers.runtime.service import serve
from tradesaga.consumers.services.trade_evidence import EVIDENCE, order_of, with_order
from tradesaga.infra.ledger.entries import Booking, book
from tradesaga.infra.ledger.orders import ExposureKey, mark, remove_orders
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.settings import Settings
from tradesaga.sagas.trade.definition import settle_trade, trade
from tradesaga.sagas.trade.postings import Fill, Holding, Settlement, settle
from tradesaga.schemas.messages.trade import OrderPlaced, TradeFilled, TradeSettled

participant = Participant("settlement", trade, evidence=EVIDENCE)
"""Nothing here can be paused: what was filled is owed."""


async def settlement(settings: Settings) -> None:
    """Run the service until it is cancelled."""
    await serve(participant, settings)


@participant.handles_batch(settle_trade)
async def settle_fills(works: Sequence[Work[TradeFilled]], sql: Connection) -> list[TradeSettled]:
    """Book fills, and take their orders out of the accounts' exposure."""
    done = [_settle(work, order_of(work.ctx).venue) for work in works]
    await _book(works, done, sql)
    return [_tell(work, each) for work, each in zip(works, done, strict=True)]


async def _book(works: Sequence[Work[TradeFilled]], done: Sequence[Settlement], sql: Connection) -> None:
    """Book settlements, take their orders out of the exposure, and mark them."""
    await book(
        sql, [Booking(work.saga_id, work.ctx.step, each.postings) for work, each in zip(works, done, strict=True)]
    )
    orders = [order_of(work.ctx) for work in works]
    await remove_orders(sql, [(ExposureKey(order.account, order.quote), order.notional) for order in orders])
    await mark(sql, [work.saga_id for work in works], "SETTLED")


def _settle(work: Work[TradeFilled], venue: str) -> Settlement:
    """Compute what a fill moves: the fill is the one in execution's row, everything else is the register's."""
    order = order_of(work.ctx)
    holding = Holding(
        account=order.account, venue=venue, side=order.side, base=order.base, quote=order.quote,
        amount=order.hold,
    )  # fmt: skip
    filled = work.event
    return settle(holding, Fill(filled.quantity, filled.quote_amount, filled.fee, filled.fee_asset))


def _tell(work: Work[TradeFilled], done: Settlement) -> TradeSettled:
    if done.borne:
        # More than was set aside: the venue traded or charged beyond the order's terms.
        work.ctx.log.warning("the house bears a part of the trade", borne={k: str(v) for k, v in done.borne.items()})
    filled = work.event
    return TradeSettled(
        quantity=filled.quantity, quote_amount=filled.quote_amount, fee=filled.fee, released=done.released
    )


@participant.restores(settle_trade)
async def settle_again(works: Sequence[Work[TradeSettled]], sql: Connection) -> None:
    """Book the fills of trades that the facts say are settled, where the order is counted and its hold stands."""
    filled: list[Work[TradeFilled]] = []
    done: list[Settlement] = []
    for work in with_order(works, held=True, status="COUNTED"):
        filled.append(Work(work.ctx.get(TradeFilled), work.ctx))
        # An account that only facts know has no venue of its own yet; the venue that took the order is in the facts.
        done.append(_settle(filled[-1], work.ctx.get(OrderPlaced).venue))
    await _book(filled, done, sql)
