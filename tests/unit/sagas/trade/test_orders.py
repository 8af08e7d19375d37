"""The rules of orders, holds and exposure, by example and by property."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradesaga.sagas.trade.arithmetic import ZERO, is_multiple, multiply, round_down, round_up
from tradesaga.sagas.trade.exposure import Exposure, Limits, count_in
from tradesaga.sagas.trade.orders import Instrument, Rejection, Terms, assess, client_order_id, saga_of
from tradesaga.schemas.messages.trade import OrderType, Side, TradeRequested

D = Decimal
EURUSD = Instrument(
    symbol="EUR/USD", base="EUR", quote="USD", tick=D("0.00001"), lot=D(1), min_quantity=D(1), max_quantity=D(10**6),
    min_notional=D(10), fee_rate=D("0.001"), collar=D("0.02"), reference_price=D("1.10000"),
)  # fmt: skip


def order(**changes: object) -> TradeRequested:
    """Ask to buy 100 EUR at 1.1, but for the changes."""
    given_fields: dict[str, object] = {
        "idempotency_key": "k", "account": "a", "symbol": "EUR/USD", "side": Side.BUY, "quantity": D(100),
        "order_type": OrderType.LIMIT, "limit_price": D("1.1"),
    }  # fmt: skip
    return TradeRequested.model_validate(given_fields | changes)


MARKET = {"order_type": OrderType.MARKET, "limit_price": None}


def test_a_buy_holds_its_worst_cost_and_fee() -> None:
    """100 at 1.1 with a tenth of a per cent is 110.11 of the quote asset; it counts for 110."""
    assert assess(order(), EURUSD) == Terms("USD", D("110.11"), D(110), D("1.1"))


def test_a_sell_holds_its_position_and_counts_at_the_last_price() -> None:
    """A sell far below the market fetches the market's price, and is counted so against the limits."""
    assert assess(order(side=Side.SELL, limit_price=D("0.5")), EURUSD) == Terms("EUR", D(100), D(110), D("0.5"))


def test_market_orders_go_out_with_a_collar() -> None:
    """The worst price is two per cent beyond the last one, and a buy holds what that costs."""
    assert assess(order(**MARKET), EURUSD) == Terms("USD", D("112.3122"), D("112.2"), D("1.122"))
    assert assess(order(**MARKET, side=Side.SELL), EURUSD) == Terms("EUR", D(100), D(110), D("1.078"))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"limit_price": D("1.100001")}, "tick"),
        ({"quantity": D("100.5")}, "lot"),
        ({"quantity": D(2_000_000)}, "max_quantity"),
        ({"quantity": D(5)}, "min_notional"),
        ({"limit_price": D("999999999999999999")}, "too_large"),
    ],
)
def test_orders_against_the_rules_are_refused(changes: dict[str, object], code: str) -> None:
    """Each rule has a code of its own and a sentence that names the bound."""
    refusal = assess(order(**changes), EURUSD)
    assert isinstance(refusal, Rejection)
    assert refusal.code == code
    assert refusal.reason


def test_orders_below_the_least_quantity_are_refused() -> None:
    """The least quantity is a rule of its own beside the lot."""
    refusal = assess(order(), replace(EURUSD, min_quantity=D(101)))
    assert isinstance(refusal, Rejection)
    assert refusal.code == "min_quantity"


def test_a_market_order_needs_a_known_price() -> None:
    """Without a last price nothing bounds what a market order could cost."""
    refusal = assess(order(**MARKET), replace(EURUSD, reference_price=None))
    assert isinstance(refusal, Rejection)
    assert refusal.code == "no_reference_price"


units = st.integers(1, 10**26 - 1).map(lambda n: D(n).scaleb(-8))


@given(value=units, part=st.sampled_from([D("0.00000001"), D("0.00001"), D("0.01"), D(1), D(7), D("0.3")]))
def test_rounding_is_exact(value: Decimal, part: Decimal) -> None:
    """Both ways end on a whole part, less than one part away, on their side, also with a sign."""
    for signed in (value, -value):
        below, above = round_down(signed, part), round_up(signed, part)
        assert below <= signed <= above
        assert above - below in {ZERO, part}
        assert is_multiple(below, part)
        assert is_multiple(above, part)
        assert (below == signed) == is_multiple(signed, part)


@given(a=units, b=units)
def test_products_are_not_rounded(a: Decimal, b: Decimal) -> None:
    """The product has the digits that whole numbers would give, however many."""
    assert Fraction(multiply(a, b)) == Fraction(a) * Fraction(b)


@given(
    quantity=st.integers(1, 10**6), ticks=st.integers(1, 10**9), rate=st.integers(0, 10**6).map(lambda n: D(n) / 10**8),
    pieces=st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 1000)), max_size=20),
)  # fmt: skip
def test_a_hold_covers_every_way_to_fill(
    quantity: int, ticks: int, rate: Decimal, pieces: list[tuple[int, int]]
) -> None:
    """However a venue splits and betters the fills, their cost and fees stay within what was set aside."""
    price = ticks * EURUSD.tick
    rules = replace(EURUSD, fee_rate=rate, min_notional=ZERO)
    terms = assess(order(quantity=D(quantity), limit_price=price), rules)
    assert isinstance(terms, Terms)
    left, cost = quantity, ZERO
    for size, better in [*pieces, (quantity, 0)]:
        filled = min(size, left)
        value = multiply(D(filled), max(price - better * EURUSD.tick, ZERO))
        cost += value + round_down(multiply(value, rate))
        left -= filled
    assert cost <= terms.hold


LIMITS = Limits(D(1000), D(1500), 2)


@pytest.mark.parametrize(
    ("now", "notional", "expected"),
    [
        (Exposure(ZERO, 0), D(1000), Exposure(D(1000), 1)),
        (Exposure(D(1000), 1), D(500), Exposure(D(1500), 2)),
        (Exposure(ZERO, 0), D("1000.00000001"), "max_order_notional"),
        (Exposure(D(1000), 1), D("500.00000001"), "max_exposure"),
        (Exposure(D(2), 2), D(1), "max_open_orders"),
    ],
)
def test_limits_are_inclusive(now: Exposure, notional: Decimal, expected: Exposure | str) -> None:
    """An order may reach a limit exactly; the smallest amount beyond it is refused under the limit's name."""
    after = count_in(LIMITS, now, notional)
    assert (after.code if isinstance(after, Rejection) else after) == expected


@given(saga_id=st.uuids())
def test_client_order_ids_can_be_read_back(saga_id: UUID) -> None:
    """The id leads back to its saga and is short enough for every venue."""
    assert saga_of(client_order_id(saga_id)) == saga_id
    assert len(client_order_id(saga_id)) <= 36


@pytest.mark.parametrize(
    "foreign",
    ["", "ts", "x" * 34, "ts" + "g" * 32, "ts" + "A" * 33, "ts-" + "0" * 31, "TS" + "0" * 32],
)
def test_foreign_orders_have_no_saga(foreign: str) -> None:
    """An order that somebody else placed on the account is not taken for ours."""
    assert saga_of(foreign) is None
