"""Risk limits of an account's open orders, per quote asset."""

from dataclasses import dataclass, replace
from decimal import Decimal

from tradesaga.sagas.trade.orders import Rejection
from tradesaga.schemas.amounts import format_decimal


@dataclass(frozen=True, slots=True)
class Limits:
    """An account's limits: value of one order, value of all open orders, and their number."""

    max_order_notional: Decimal
    max_exposure: Decimal
    max_open_orders: int


@dataclass(frozen=True, slots=True)
class Exposure:
    """An account's open orders in one quote asset."""

    notional: Decimal
    open_orders: int


def count_in(limits: Limits, now: Exposure, notional: Decimal) -> Exposure | Rejection:
    """Return the exposure with one more order, or the limit that it would breach."""
    if notional > limits.max_order_notional:
        most = format_decimal(limits.max_order_notional)
        return Rejection("max_order_notional", f"the order is worth {format_decimal(notional)}, above the limit {most}")
    after = replace(now, notional=now.notional + notional, open_orders=now.open_orders + 1)
    if after.notional > limits.max_exposure:
        most = format_decimal(limits.max_exposure)
        return Rejection("max_exposure", f"open orders would be worth {format_decimal(after.notional)}, above {most}")
    if after.open_orders > limits.max_open_orders:
        return Rejection("max_open_orders", f"the account has {now.open_orders} open orders, which is its limit")
    return after
