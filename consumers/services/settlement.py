"""The settlement service: books fills, and releases the rest of the hold."""

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
"""No step of this service can be paused: a fill must be settled."""


async def settlement(settings: Settings) -> None:
    """Run the service until it is cancelled."""
    await serve(participant, settings)


@participant.handles_batch(settle_trade)
async def settle_fills(works: Sequence[Work[TradeFilled]], sql: Connection) -> list[TradeSettled]:
    """Book fills, and remove their orders from the accounts' exposure."""
    done = [_settle(work, order_of(work.ctx).venue) for work in works]
    await _book(works, done, sql)
    return [_answer(work, each) for work, each in zip(works, done, strict=True)]


async def _book(works: Sequence[Work[TradeFilled]], done: Sequence[Settlement], sql: Connection) -> None:
    """Book settlements, remove their orders from the exposure, and mark them as settled."""
    await book(
        sql, [Booking(work.saga_id, work.ctx.step, each.postings) for work, each in zip(works, done, strict=True)]
    )
    orders = [order_of(work.ctx) for work in works]
    await remove_orders(sql, [(ExposureKey(order.account, order.quote), order.notional) for order in orders])
    await mark(sql, [work.saga_id for work in works], "SETTLED")


def _settle(work: Work[TradeFilled], venue: str) -> Settlement:
    """Compute the postings of a fill. The fill is that of execution's row; everything else comes from the register."""
    order = order_of(work.ctx)
    holding = Holding(
        account=order.account, venue=venue, side=order.side, base=order.base, quote=order.quote,
        amount=order.hold,
    )  # fmt: skip
    filled = work.event
    return settle(holding, Fill(filled.quantity, filled.quote_amount, filled.fee, filled.fee_asset))


def _answer(work: Work[TradeFilled], done: Settlement) -> TradeSettled:
    if done.borne:
        # The trade cost more than its hold: the venue traded or charged beyond the order's terms.
        work.ctx.log.warning("the house bears a part of the trade", borne={k: str(v) for k, v in done.borne.items()})
    filled = work.event
    return TradeSettled(
        quantity=filled.quantity, quote_amount=filled.quote_amount, fee=filled.fee, released=done.released
    )


@participant.restores(settle_trade)
async def restore_settled(works: Sequence[Work[TradeSettled]], sql: Connection) -> None:
    """Book the fills of trades that are settled according to the facts, if the order is counted and its hold exists."""
    filled: list[Work[TradeFilled]] = []
    done: list[Settlement] = []
    for work in with_order(works, held=True, status="COUNTED"):
        filled.append(Work(work.ctx.get(TradeFilled), work.ctx))
        # An account that is known only from facts has no venue yet; the facts have the venue of the order.
        done.append(_settle(filled[-1], work.ctx.get(OrderPlaced).venue))
    await _book(filled, done, sql)
