"""Signals of strategies on `trade.signals`, which the signal router turns into starts."""

from typing import Annotated

from pydantic import Field

from tradesaga.schemas.amounts import Price, Quantity
from tradesaga.schemas.messages.message import Event
from tradesaga.schemas.messages.trade import Key, OrderType, Side, Symbol, TimeInForce

StrategyName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]


class SignalRaised(Event):
    """A strategy's signal to trade `symbol`; the router's subscriptions decide which accounts trade, and how much."""

    signal_id: Key
    strategy: StrategyName
    symbol: Symbol
    side: Side
    quantity: Quantity
    order_type: OrderType = OrderType.MARKET
    limit_price: Price | None = None
    time_in_force: TimeInForce = TimeInForce.IOC
    observed_price: Price
    observed_at: int = Field(ge=0, le=2**63 - 1, description="Nanoseconds since 1970 UTC of the bar that raised it")


MESSAGES = (SignalRaised,)
