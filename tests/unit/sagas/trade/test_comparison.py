"""Reconciliation's judgement: agreement is silent, and each kind of disagreement has its name."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from tradesaga.sagas.trade.comparison import (
    BookView,
    Drift,
    Flaw,
    SagaView,
    Traded,
    VenueView,
    compare,
    venue_differences,
)
from tradesaga.sagas.trade.orders import client_order_id
from tradesaga.sagas.trade.venue import Fill, OrderReport, OrderStatus, VenueTrade
from tradesaga.schemas.messages.trade import OrderType, Side, TimeInForce, TradeFilled, hash_trade_ids

D = Decimal
BOUGHT, TAKEN_BACK, UNDER_WAY = UUID(int=1), UUID(int=2), UUID(int=3)


def order(saga_id: UUID, side: Side = Side.BUY, status: OrderStatus = OrderStatus.FILLED) -> OrderReport:
    """Show an order for EUR as the venue does."""
    return OrderReport(
        client_order_id(saga_id), str(saga_id.int), "EUR/USD", side, OrderType.LIMIT, TimeInForce.GTC, D(10), D(1),
        status, D(10), D(10), 0,
    )  # fmt: skip


def trade(price: str = "1", quantity: int = 10, fee: str = "0.01", bust_of: str | None = None) -> VenueTrade:
    """Show a trade as the venue does."""
    return VenueTrade(Fill("t", D(quantity), D(price), D(fee), "USD", 0), "EUR/USD", Side.BUY, "1", bust_of)


def traded(*trades: VenueTrade) -> Traded:
    """Sum trades."""
    total = Traded()
    for each in trades:
        total.add(each)
    return total


FILLED = TradeFilled(
    quantity=D(10),
    quote_amount=D(10),
    fee=D("0.01"),
    fee_asset="USD",
    executions=1,
    executions_hash=hash_trade_ids(["t"]),
    complete=True,
)
ENDED = {BOUGHT: SagaView("COMPLETED", FILLED), TAKEN_BACK: SagaView("ABORTED", None)}
VENUE = VenueView(
    orders={
        BOUGHT: order(BOUGHT),
        TAKEN_BACK: order(TAKEN_BACK, status=OrderStatus.CANCELLED),
        UNDER_WAY: order(UNDER_WAY, Side.SELL),
    },
    traded={BOUGHT: traded(trade()), UNDER_WAY: traded(trade("2", 5))},
    foreign=[],
    totals={"USD": D("99.98") + D(10) - D(10), "EUR": D(105)},
)
BOOK = BookView(
    statuses={BOUGHT: "SETTLED", TAKEN_BACK: "WITHDRAWN", UNDER_WAY: "COUNTED"},
    settled=frozenset({BOUGHT}),
    held={UNDER_WAY: D(10)},
    sums={"USD": D(0), "EUR": D(0)},
    balances=[],
    exposures=[],
    at_venue={"USD": D("89.99"), "EUR": D(110)},
    stocked=True,
)


def flaws(venue: VenueView = VENUE, book: BookView = BOOK, ended: dict[UUID, SagaView] = ENDED) -> list[Flaw]:
    """Name what is found."""
    return [each.flaw for each in compare(ended, venue, book)]


def test_agreement_is_silent() -> None:
    """Settled, taken back and unbooked trades all explain themselves."""
    assert flaws() == []


def without(mapping: Any, key: UUID) -> dict[Any, Any]:
    """Leave one key out."""
    return {one: value for one, value in mapping.items() if one != key}


SPOILERS: dict[Flaw, Callable[[], list[Flaw]]] = {
    Flaw.FOREIGN_ORDER: lambda: flaws(replace(VENUE, foreign=["web_1"])),
    Flaw.ORDER_LEFT_OPEN: lambda: flaws(
        replace(VENUE, orders={**VENUE.orders, TAKEN_BACK: order(TAKEN_BACK, status=OrderStatus.ACKNOWLEDGED)})
    ),
    Flaw.FILL_DIFFERS: lambda: flaws(
        ended={**ENDED, BOUGHT: SagaView("COMPLETED", FILLED.model_copy(update={"fee": D("0.02")}))}
    ),
    Flaw.FILL_NOT_BOOKED: lambda: flaws(ended={**ENDED, TAKEN_BACK: SagaView("ABORTED", None)}, venue=replace(
        VENUE, traded={**VENUE.traded, TAKEN_BACK: traded(trade(fee="0"))},
        totals={"USD": D("89.98"), "EUR": D(115)},
    )),
    Flaw.HOLD_LEFT: lambda: flaws(book=replace(BOOK, held={TAKEN_BACK: D("0.00000001")})),
    Flaw.REGISTER_DIFFERS: lambda: flaws(book=replace(BOOK, statuses={**BOOK.statuses, TAKEN_BACK: "COUNTED"})),
    Flaw.LEDGER_NOT_ZERO: lambda: flaws(book=replace(BOOK, sums={"USD": D("0.01")})),
    Flaw.BALANCE_DIFFERS: lambda: flaws(book=replace(BOOK, balances=[Drift("alice USD available", D(1), D(2))])),
    Flaw.EXPOSURE_DIFFERS: lambda: flaws(book=replace(BOOK, exposures=[Drift("alice USD", D(1), D(2))])),
    Flaw.VENUE_BALANCE_DIFFERS: lambda: flaws(replace(VENUE, totals={**(VENUE.totals or {}), "USD": D(0)})),
}  # fmt: skip


@pytest.mark.parametrize("flaw", SPOILERS)
def test_each_disagreement_has_its_name(flaw: Flaw) -> None:
    """One thing spoilt is found as that one thing."""
    assert SPOILERS[flaw]() == [flaw]


def test_an_order_that_no_saga_knows_is_found() -> None:
    """An order under an id of ours that was never registered moved money that nothing explains."""
    book = replace(BOOK, statuses=without(BOOK.statuses, UNDER_WAY), held={})
    assert flaws(book=book) == [Flaw.ORDER_WITHOUT_SAGA, Flaw.VENUE_BALANCE_DIFFERS, Flaw.VENUE_BALANCE_DIFFERS]


def test_a_completed_saga_without_a_booked_fill_is_found() -> None:
    """The venue's figures agree with the saga's, and the ledger knows nothing of it."""
    book = replace(BOOK, settled=frozenset(), at_venue={"USD": D(100), "EUR": D(100)})
    assert flaws(book=book) == [Flaw.NOT_SETTLED]


def test_a_completed_saga_without_a_fill_is_found() -> None:
    """A saga that is COMPLETED must have told of a fill."""
    assert flaws(ended={**ENDED, BOUGHT: SagaView("COMPLETED", None)}) == [Flaw.FILL_DIFFERS]


def test_a_busted_trade_differs_from_what_was_booked() -> None:
    """After a bust the venue's figures are zero, the booked ones are not: quantity, amount and fee differ."""
    busted = traded(trade(), trade(fee="-0.01", bust_of="t"))
    assert (busted.quantity, busted.quote, busted.fees) == (D(0), D(0), {"USD": D(0)})
    found = flaws(replace(VENUE, traded={**VENUE.traded, BOUGHT: busted}))
    assert found == [Flaw.FILL_DIFFERS] * 3


def test_a_busy_venue_is_not_compared() -> None:
    """Holdings that change while they are read say nothing, and neither does a ledger that never took stock."""
    assert venue_differences(replace(VENUE, totals=None), BOOK) == {}
    assert flaws(replace(VENUE, totals={}), replace(BOOK, stocked=False)) == []
