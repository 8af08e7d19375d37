"""The execution service against a venue in memory: placed once, asked when unknown, ended when barred."""

import time
from decimal import Decimal

import pytest

from tests.book import EURUSD, context, order
from tests.integration.infra.venues.simulated_venue import SimulatedVenue
from tradesaga.consumers.context import StepContext
from tradesaga.consumers.participant import CompensationImpossibleError
from tradesaga.consumers.services.execution import Desk, conclude, execution_participant
from tradesaga.infra.ledger.trades import RegisteredOrder, Trade
from tradesaga.infra.paper_exchange.faults import Fault
from tradesaga.sagas.trade.fills import identify
from tradesaga.sagas.trade.orders import Terms, assess, client_order_id
from tradesaga.sagas.trade.venue import VenueUnavailable, VenueUnknown
from tradesaga.schemas.messages import trade as t

D = Decimal
DONE = t.RiskAccepted(exposure=D(1))


@pytest.fixture
def venue() -> SimulatedVenue:
    """Give a venue where EUR costs 1.1 and falls to 1.05 with the next bar."""
    prices = {"EUR/USD": [D("1.1"), D("1.05"), D("1.05")]}
    return SimulatedVenue(prices, {"USD": D(10**6), "EUR": D(10**6)})


@pytest.fixture
def desk(venue: SimulatedVenue) -> Desk:
    """Give the execution service's hand at that venue."""
    return Desk(venue, "paper")


def told(request: t.TradeRequested, seconds: float = 3.0) -> StepContext:
    """Make what the runtime tells about an order that risk and cash have let through."""
    terms = assess(request, EURUSD)
    assert isinstance(terms, Terms)
    ctx = context("place_order", [request], expires_ns=time.time_ns() + int(seconds * 1e9))
    ctx.evidence = Trade(RegisteredOrder(
        request.account, "paper", request.symbol, request.side, request.quantity, request.order_type,
        request.limit_price, terms.worst_price, request.time_in_force, "USD", terms.hold_asset, terms.hold,
        terms.notional, "COUNTED",
    ))  # fmt: skip
    return ctx


@pytest.mark.parametrize("side", t.Side)
async def test_a_market_order_is_filled_within_its_collar(desk: Desk, venue: SimulatedVenue, side: t.Side) -> None:
    """It goes out as a limit at its worst price that takes what is there, and ends at once."""
    ctx = told(order(side, price=None))
    placed = await desk.place(DONE, ctx)
    assert isinstance(placed, t.OrderPlaced)
    report = await venue.query(placed.client_order_id, "EUR/USD")
    assert report is not None
    assert (report.price, report.time_in_force) == (D("1.122" if side is t.Side.BUY else "1.078"), t.TimeInForce.IOC)
    filled = conclude(await desk.poll(ctx), ctx)
    assert isinstance(filled, t.TradeFilled)
    assert (filled.quantity, filled.complete) == (D(100), True)


async def test_placing_twice_trades_once(desk: Desk, venue: SimulatedVenue) -> None:
    """The same attempt repeated finds the order that is there already."""
    ctx = told(order(price="1.0"))
    assert await desk.place(DONE, ctx) == await desk.place(DONE, ctx)
    assert len(await venue.open_orders()) == 1


async def test_an_unanswered_order_is_unknown_and_found_by_asking(desk: Desk, venue: SimulatedVenue) -> None:
    """An answer lost after the effect is neither done nor failed; the question brings the order to light."""
    venue.faults.add(Fault(kind="lost_answer", next=1))
    ctx = told(order(price="1.0"))
    with pytest.raises(VenueUnknown):
        await desk.place(DONE, ctx)
    placed = await desk.query(DONE, ctx)
    assert isinstance(placed, t.OrderPlaced)
    assert placed.client_order_id == client_order_id(ctx.saga_id)


async def test_an_order_never_placed_is_not_found(desk: Desk) -> None:
    """None is the answer when the venue knows nothing; the runtime waits for the expiry before it believes it."""
    assert await desk.query(DONE, told(order())) is None


async def test_an_expired_attempt_is_known_not_to_have_happened(desk: Desk) -> None:
    """What reaches the venue too late is refused there, and may be tried anew."""
    with pytest.raises(VenueUnavailable, match="came after its expiry"):
        await desk.place(DONE, told(order(), seconds=-1))


async def test_the_venues_refusal_is_an_answer(desk: Desk) -> None:
    """An order that the venue will not have is refused with the venue's own code and words."""
    refused = await desk.place(DONE, told(order(quantity=1_000_000, price="999")))
    assert isinstance(refused, t.OrderRejected)
    assert refused.reason
    again = told(order(quantity=1_000_000, price="999"))
    assert isinstance(await desk.place(DONE, again), t.OrderRejected)
    assert isinstance(await desk.query(DONE, again), t.OrderRejected | None)


async def test_a_bar_ends_a_resting_order(desk: Desk, venue: SimulatedVenue) -> None:
    """Nothing was filled, and after the bar nothing can be: the order is off the book."""
    ctx = told(order(price="1.0"))
    await desk.place(DONE, ctx)
    assert conclude(await desk.poll(ctx), ctx) is None
    answer = conclude(await desk.bar(ctx), ctx)
    assert answer == t.TradeUnfilled(status="cancelled")
    assert await venue.open_orders() == []
    assert (await desk.cancel(t.CancelOrder(), ctx)).client_order_id == client_order_id(ctx.saga_id)


async def test_a_fill_that_was_faster_than_the_bar_counts(desk: Desk, venue: SimulatedVenue) -> None:
    """Cancelling an order that the market has just filled brings its fill, and taking it back is impossible."""
    ctx = told(order(price="1.06"))
    await desk.place(DONE, ctx)
    venue.step("EUR/USD")
    filled = conclude(await desk.bar(ctx), ctx)
    assert isinstance(filled, t.TradeFilled)
    assert filled.complete
    with pytest.raises(CompensationImpossibleError, match="100"):
        await desk.cancel(t.CancelOrder(), ctx)


async def test_a_partial_fill_then_cancel_counts_for_what_was_filled(desk: Desk, venue: SimulatedVenue) -> None:
    """Part of the order is taken, the rest rests until the bar: the answer is the part."""
    venue.faults.add(Fault(kind="partial", ratio=D("0.4"), next=1))
    ctx = told(order(price="1.2"))
    await desk.place(DONE, ctx)
    filled = conclude(await desk.bar(ctx), ctx)
    assert isinstance(filled, t.TradeFilled)
    assert (filled.quantity, filled.complete) == (D(40), False)


async def test_ending_an_order_the_venue_does_not_know_stays_unknown(desk: Desk) -> None:
    """An order once taken and now not found is nothing to conclude from: it is asked for again."""
    with pytest.raises(VenueUnknown, match="does not find"):
        await desk.bar(told(order()))


async def test_polled_and_streamed_reports_are_the_same(desk: Desk, venue: SimulatedVenue) -> None:
    """What a poll brings is known by the same ids as what the venue streams, so that nothing counts twice."""
    ctx = told(order(price=None))
    await desk.place(DONE, ctx)
    polled = {(identify(report), report.report_id) for report in await desk.poll(ctx)}
    streamed: set[tuple[str, str]] = set()
    async for report in venue.reports():
        streamed.add((f"fill:{report.fill.trade_id}" if report.fill else report.kind, report.report_id))
        if report.kind == "fill":
            break
    assert polled <= streamed
    assert polled


def test_execution_is_complete(venue: SimulatedVenue) -> None:
    """Every step of the service is bound to what it needs, and a venue or an account can be paused."""
    participant = execution_participant(venue, "paper")
    participant.check()
    assert participant.pauses is not None
    assert participant.pauses(told(order())) == [("account", "alice"), ("venue", "paper")]
