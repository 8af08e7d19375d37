"""What fills amount to and what they move: conserved to the last digit, never below zero."""

from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tradesaga.consumers.context import StepContext
from tradesaga.sagas.trade import postings as p
from tradesaga.sagas.trade.arithmetic import ZERO
from tradesaga.sagas.trade.definition import trade
from tradesaga.sagas.trade.fills import conclude, contradict, identify
from tradesaga.sagas.trade.postings import AccountKey, AccountKind, Fill, Holding, settle
from tradesaga.schemas.messages.trade import (
    Side,
    TradeFilled,
    TradeFilledV1,
    TradeUnfilled,
    VenueFill,
    VenueReport,
    hash_trade_ids,
)

D = Decimal
BUY = Holding("alice", "paper", Side.BUY, "EUR", "USD", D("110.11"))
SELL = Holding("alice", "paper", Side.SELL, "EUR", "USD", D(100))


def test_a_partial_buy_releases_the_rest_to_the_cent() -> None:
    """40 of 100 at 1.05 with a fee: the customer has 40 EUR and everything else back."""
    done = settle(BUY, Fill(D(40), D(42), D("0.042"), "USD"))
    assert done.released == D("68.068")
    assert done.borne == {}
    assert done.postings == {
        AccountKey("alice", "USD", AccountKind.HELD): D("-110.11"),
        AccountKey("alice", "USD", AccountKind.AVAILABLE): D("68.068"),
        AccountKey("alice", "EUR", AccountKind.AVAILABLE): D(40),
        AccountKey("@paper", "USD", AccountKind.CLEARING): D(42),
        AccountKey("@paper", "EUR", AccountKind.CLEARING): D(-40),
        AccountKey("@paper", "USD", AccountKind.FEES): D("0.042"),
    }


def test_a_sell_pays_its_fee_from_what_it_fetched() -> None:
    """100 EUR for 110 USD less the fee."""
    done = settle(SELL, Fill(D(100), D(110), D("0.11"), "USD"))
    assert done.postings[AccountKey("alice", "USD", AccountKind.AVAILABLE)] == D("109.89")
    assert done.released == ZERO


def test_a_fee_in_what_a_buy_receives_lessens_it() -> None:
    """Some venues take a buyer's fee in the base asset."""
    done = settle(BUY, Fill(D(100), D(110), D("0.1"), "EUR"))
    assert done.postings[AccountKey("alice", "EUR", AccountKind.AVAILABLE)] == D("99.9")
    assert done.released == D("0.11")


@pytest.mark.parametrize(
    ("fill", "borne"),
    [
        (Fill(D(100), D(110), D("0.5"), "USD"), {"USD": D("0.39")}),
        (Fill(D(100), D(120), D("0.12"), "USD"), {"USD": D("10.01")}),
        (Fill(D(100), D(110), D("0.01"), "BNB"), {"BNB": D("0.01")}),
    ],
)
def test_the_house_bears_what_the_hold_does_not_cover(fill: Fill, borne: dict[str, Decimal]) -> None:
    """A higher fee, a worse price or a fee in a third asset never takes more from the customer than was set aside."""
    done = settle(BUY, fill)
    assert done.borne == borne
    assert done.postings[AccountKey("alice", "USD", AccountKind.HELD)] == -BUY.amount
    assert all(amount > 0 for place, amount in done.postings.items() if place.kind is AccountKind.AVAILABLE)


amounts = st.integers(0, 10**12).map(lambda n: D(n).scaleb(-8))


@given(
    side=st.sampled_from(Side), hold=amounts, quantity=amounts, quote=amounts, fee=amounts,
    fee_asset=st.sampled_from(["EUR", "USD", "BNB"]),
)  # fmt: skip
def test_settling_conserves_and_never_overdraws(
    *, side: Side, hold: Decimal, quantity: Decimal, quote: Decimal, fee: Decimal, fee_asset: str
) -> None:
    """Whatever a venue says: every asset sums to zero, all of the hold is gone, no customer's account goes down."""
    holding = Holding("alice", "paper", side, "EUR", "USD", hold)
    done = settle(holding, Fill(quantity, quote, fee, fee_asset))
    for asset in ("EUR", "USD", "BNB"):
        assert sum(amount for place, amount in done.postings.items() if place.asset == asset) == ZERO
        venue = [amount for place, amount in done.postings.items() if place[:2] == ("@paper", asset)]
        moved = {"EUR": quantity, "USD": -quote, "BNB": ZERO}[asset] * (1 if side is Side.BUY else -1)
        assert -sum(venue, ZERO) == moved - (fee if asset == fee_asset else ZERO)
    assert done.postings.get(AccountKey("alice", holding.asset, AccountKind.HELD), ZERO) == -hold
    assert all(amount > 0 for place, amount in done.postings.items() if place.kind is AccountKind.AVAILABLE)
    assert ZERO <= done.released <= hold


@given(amount=amounts)
def test_holding_and_releasing_is_nothing(amount: Decimal) -> None:
    """A hold taken back leaves every account as it was."""
    there, back = p.hold("alice", "USD", amount), p.release("alice", "USD", amount)
    assert {place: moved + back[place] for place, moved in there.items()} == dict.fromkeys(there, ZERO)


def report(
    kind: str, cumulative: int, trade: str | None = None, quantity: int = 0, fee_asset: str = "USD"
) -> VenueReport:
    """Say something about one order, as the venue would."""
    fill = trade and VenueFill(
        trade_id=trade, quantity=D(quantity), price=D("1.1"), fee=D("0.01"), fee_asset=fee_asset
    )  # fmt: skip
    return VenueReport.model_validate({
        "venue": "paper", "report_id": f"{kind}-{trade}", "kind": kind, "client_order_id": "c", "venue_order_id": "1",
        "symbol": "EUR/USD", "cumulative_quantity": D(cumulative), "cumulative_quote": D(cumulative),
        "fill": fill or None, "venue_time": 1,
    })  # fmt: skip


ACK, PART, REST = report("acknowledged", 0), report("partial_fill", 40, "1", 40), report("fill", 100, "2", 60)
ENDED = report("expired", 40)


@given(order=st.permutations([ACK, PART, REST]))
def test_fills_in_any_order_conclude_alike(order: list[VenueReport]) -> None:
    """The answer waits for every execution up to the end and then says the same, however the reports came."""
    answers = [conclude(order[: n + 1], D(100), ["USD"]) for n in range(3)]
    last = max(order.index(PART), order.index(REST))
    assert all(answer is None for answer in answers[:last])
    assert answers[-1] == TradeFilled(
        quantity=D(100),
        quote_amount=D(110),
        fee=D("0.02"),
        fee_asset="USD",
        executions=2,
        executions_hash=hash_trade_ids(["1", "2"]),
        complete=True,
    )


def test_an_end_without_its_executions_waits() -> None:
    """An expiry after 40 were filled says nothing until the report of the 40 is there; then 40 were traded."""
    assert conclude([ACK, ENDED], D(100), []) is None
    filled = conclude([ENDED, PART], D(100), [])
    assert isinstance(filled, TradeFilled)
    assert (filled.quantity, filled.complete) == (D(40), False)


@pytest.mark.parametrize("kind", ["expired", "cancelled", "rejected"])
def test_nothing_filled_is_a_refusal(kind: str) -> None:
    """An order that ends without an execution was not traded, and the answer says how it ended."""
    assert conclude([ACK, report(kind, 0)], D(100), []) == TradeUnfilled.model_validate({"status": kind})


def test_busted_executions_do_not_count() -> None:
    """What the venue takes back before the answer was never traded."""
    bust = report("busted", 100, "1", 40)
    filled = conclude([PART, REST, bust], D(100), [])
    assert isinstance(filled, TradeFilled)
    assert (filled.executions, filled.executions_hash) == (1, hash_trade_ids(["2"]))
    unfilled = conclude([PART, ENDED, bust], D(100), [])
    assert unfilled == TradeUnfilled(status="expired", reason="every execution was busted")


def test_an_answer_is_as_small_for_thousands_of_executions() -> None:
    """The fact counts and hashes them, so that no order is too large to be settled."""
    fills = [report("partial_fill", number, str(number), 1) for number in range(1, 5001)]
    filled = conclude([*fills, report("cancelled", 5000)], D(6000), [])
    assert isinstance(filled, TradeFilled)
    assert (filled.quantity, filled.executions) == (D(5000), 5000)
    assert len(filled.to_wire()) < 300


def test_version_1_of_the_fact_is_read_as_version_2() -> None:
    """Trade ids are counted and hashed, wherever the fact is read: from a record, or from a saga's context."""
    v1 = TradeFilledV1(
        quantity=D(3), quote_amount=D(4), fee=D(0), fee_asset="USD", venue_trade_ids=("2", "10"), complete=True
    )
    v2 = TradeFilled(
        quantity=D(3), quote_amount=D(4), fee=D(0), fee_asset="USD", executions=2,
        executions_hash=hash_trade_ids(["10", "2"]), complete=True,
    )  # fmt: skip
    assert trade.registry.find("trade.trade-filled.v1") is TradeFilledV1
    assert TradeFilledV1.from_wire(v1.to_wire()).upcast() == v2
    assert TradeFilled.read(v1.to_wire()) == TradeFilled.read(v2.to_wire()) == v2
    ctx = StepContext(UUID(int=1), "settle_trade", 1, "", 0, b'{"trade-filled":%s}' % v1.to_wire())
    assert ctx.get(TradeFilled) == v2
    with pytest.raises(ValidationError, match="executions"):
        TradeFilled.read(b'{"quantity":"1"}')


def test_reports_are_told_apart_by_the_venues_ids() -> None:
    """Two tellings of one execution are one; its bust and the other reports are others."""
    again = PART.model_copy(update={"report_id": "another way"})
    assert identify(again) == identify(PART)
    assert len({identify(one) for one in (ACK, PART, REST, ENDED, report("busted", 40, "1", 40))}) == 5


def test_late_news_contradicts_the_answer() -> None:
    """A fill, after any answer, and a bust after one that counted fills; what was counted is left out before."""
    filled = conclude([PART, ENDED], D(100), [])
    unfilled = TradeUnfilled(status="expired")
    bust = report("busted", 40, "1", 40)
    assert contradict(filled, ENDED) is None
    assert "filled" in (contradict(filled, REST) or "")
    assert "took back" in (contradict(filled, bust) or "")
    for answered in (unfilled, None):
        assert "filled" in (contradict(answered, PART) or "")
        assert contradict(answered, bust) is None
