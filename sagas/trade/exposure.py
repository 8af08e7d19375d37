"""What an account may have at risk in open orders, counted per quote asset."""

from dataclasses import dataclass, replace
from decimal import Decimal

from tradesaga.sagas.trade.orders import Refusal
from tradesaga.schemas.amounts import format_decimal


@dataclass(frozen=True, slots=True)
class Limits:
    """The most an account may risk: in one order, in all its open orders, and how many of these."""

    max_order_notional: Decimal
    max_exposure: Decimal
    max_open_orders: int


@dataclass(frozen=True, slots=True)
class Exposure:
    """What an account has at risk now, in one quote asset."""

    notional: Decimal
    open_orders: int


def count_in(limits: Limits, now: Exposure, notional: Decimal) -> Exposure | Refusal:
    """Count an order in, or say which limit it would breach."""
    if notional > limits.max_order_notional:
        most = format_decimal(limits.max_order_notional)
        return Refusal("max_order_notional", f"the order is worth {format_decimal(notional)}, above the limit {most}")
    after = replace(now, notional=now.notional + notional, open_orders=now.open_orders + 1)
    if after.notional > limits.max_exposure:
        most = format_decimal(limits.max_exposure)
        return Refusal("max_exposure", f"open orders would be worth {format_decimal(after.notional)}, above {most}")
    if after.open_orders > limits.max_open_orders:
        return Refusal("max_open_orders", f"the account has {now.open_orders} open orders, which is its limit")
    return after
