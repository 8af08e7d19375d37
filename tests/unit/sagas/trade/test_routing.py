"""The router's rules, without any server."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradesaga.sagas.trade.orders import Instrument, Rejection
from tradesaga.sagas.trade.routing import Subscription, flaw, idempotency_key, request_of, route
from tradesaga.schemas.messages.signals import SignalRaised

LOT = Decimal("0.5")


def instrument(**changes: Any) -> Instrument:
    """Give an instrument in lots of 0.5, from 1 to 1000."""
    fields: dict[str, Any] = {
        "symbol": "EUR/USD", "base": "EUR", "quote": "USD", "tick": Decimal("0.01"), "lot": LOT,
        "min_quantity": Decimal(1), "max_quantity": Decimal(1000), "min_notional": Decimal(1),
        "fee_rate": Decimal(0), "collar": Decimal(0),
    }  # fmt: skip
    return Instrument(**{**fields, **changes})


def signal(**changes: Any) -> SignalRaised:
    """Give a signal for 10 at 2."""
    fields: dict[str, Any] = {
        "signal_id": "s", "strategy": "trend", "symbol": "EUR/USD", "side": "BUY", "quantity": "10",
        "observed_price": "2", "observed_at": 0,
    }  # fmt: skip
    return SignalRaised.model_validate({**fields, **changes})


def subscription(**changes: Any) -> Subscription:
    """Give a subscription without limits."""
    fields: dict[str, Any] = {"account": "a", "instrument": instrument(), **changes}
    return Subscription(**fields)


@pytest.mark.parametrize(
    ("changes", "waited", "lately", "code"),
    [
        ({"enabled": False, "known": False}, 0, 0, "disabled"),
        ({"known": False, "instrument": None}, 0, 0, "unknown_account"),
        ({"max_age": 5}, 5.1, 0, "stale"),
        ({"max_per_minute": 3}, 0, 3, "rate"),
        ({"instrument": None}, 0, 0, "unknown_symbol"),
        ({"size_factor": Decimal("0.01")}, 0, 0, "too_small"),
        ({"max_quantity": Decimal("0.4")}, 0, 0, "too_small"),
        ({"max_notional": Decimal("19.99")}, 0, 0, "max_notional"),
    ],
)
def test_each_rule_refuses_with_its_code(changes: dict[str, Any], waited: float, lately: int, code: str) -> None:
    """What a rule forbids is refused by that rule, in a sentence."""
    answer = route(signal(), subscription(**changes), waited=waited, lately=lately)
    assert isinstance(answer, Rejection)
    assert answer.code == code
    assert answer.reason


@pytest.mark.parametrize(
    ("changes", "waited", "lately"),
    [({"max_age": 5}, 5, 0), ({"max_per_minute": 3}, 0, 2), ({"max_notional": Decimal(20)}, 0, 0)],
)
def test_what_just_fits_is_taken(changes: dict[str, Any], waited: float, lately: int) -> None:
    """A limit itself is within the limit."""
    assert route(signal(), subscription(**changes), waited=waited, lately=lately) == Decimal(10)


def test_a_quantity_too_large_to_book_is_refused() -> None:
    """Where neither account nor venue sets a lower limit, the wire's own does."""
    vast = instrument(max_quantity=Decimal(10) ** 20)
    answer = route(signal(quantity="9" * 18), subscription(size_factor=Decimal(2), instrument=vast), waited=0, lately=0)
    assert isinstance(answer, Rejection)
    assert answer.code == "too_large"


amounts = st.decimals(min_value=Decimal("0.00000001"), max_value=Decimal(10) ** 10, places=8)


@given(
    quantity=amounts, factor=amounts.filter(lambda value: value < 10**7), most=st.none() | amounts,
    value=st.none() | amounts, price=amounts, limit=st.booleans(),
)  # fmt: skip
def test_what_is_traded_is_within_every_limit(
    *, quantity: Decimal, factor: Decimal, most: Decimal | None, value: Decimal | None, price: Decimal, limit: bool
) -> None:
    """A quantity is in whole lots, within limits, at most what was asked for, and less than a lot below it if uncut."""
    order: dict[str, Any] = {"order_type": "LIMIT", "limit_price": price} if limit else {}
    raised = signal(quantity=quantity, observed_price=price, **order)
    follower = subscription(size_factor=factor, max_quantity=most, max_notional=value)
    answer = route(raised, follower, waited=0, lately=0)
    cap = min(quantity * factor, Decimal(1000), most if most is not None else Decimal(1000))
    if isinstance(answer, Rejection):
        assert answer.code in {"too_small", "max_notional"}
        assert answer.code != "too_small" or cap < 1
        return
    assert answer % LOT == 0
    assert Decimal(1) <= answer <= cap
    assert cap - answer < LOT
    assert value is None or answer * price <= value
    request = request_of(raised, "a", answer)
    assert (request.quantity, request.limit_price) == (answer, raised.limit_price)


def test_a_signal_is_one_trade_of_each_account() -> None:
    """Strategy and signal id make the key; the same signal gives an account the same request."""
    assert idempotency_key(signal()) == "trend:s"
    assert request_of(signal(), "a", Decimal(1)) == request_of(signal(), "a", Decimal(1))


def test_flaws_are_told() -> None:
    """A limit order has a price, a market order none, and the key must fit."""
    assert flaw(signal()) == ""
    assert flaw(signal(signal_id="x" * 122)) == ""
    assert "limit_price" in flaw(signal(order_type="LIMIT"))
    assert "limit_price" in flaw(signal(limit_price="1"))
    assert "characters" in flaw(signal(signal_id="x" * 123))
