"""Decide whether an account trades a strategy's signal, and how much. Pure and deterministic."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from tradesaga.sagas.trade.arithmetic import CEILING, multiply, round_down
from tradesaga.sagas.trade.orders import Instrument, Rejection
from tradesaga.schemas.amounts import format_decimal
from tradesaga.schemas.messages.signals import SignalRaised
from tradesaga.schemas.messages.trade import OrderType, TradeRequested

KEY_LIMIT: Final = 128
"""Characters of an idempotency key."""
RATE_WINDOW: Final = 60
"""Seconds over which `max_per_minute` counts."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """An account's subscription to a strategy's signals in one symbol; a limit of None means no limit.

    A quantity above `max_quantity` is reduced to it, since the signal is also good for a smaller order. A value above
    `max_notional` is rejected, since then a price or a size is not what the account's owner expected. `max_age` is the
    seconds that a signal may have waited on the topic. `known` is False for an account that does not exist.
    """

    account: str
    size_factor: Decimal = Decimal(1)
    max_quantity: Decimal | None = None
    max_notional: Decimal | None = None
    max_per_minute: int | None = None
    max_age: int | None = None
    enabled: bool = True
    known: bool = True
    instrument: Instrument | None = None


def flaw(signal: SignalRaised) -> str:
    """Return why this signal is invalid for every account; empty if it is not."""
    if (signal.order_type is OrderType.LIMIT) != (signal.limit_price is not None):
        return "limit_price belongs to LIMIT orders, and to them alone"
    if len(idempotency_key(signal)) > KEY_LIMIT:
        return f"strategy and signal_id together have more than {KEY_LIMIT - 1} characters"
    return ""


def idempotency_key(signal: SignalRaised) -> str:
    """Return the idempotency key of the signal's trade, so that a repeated signal is the same trade."""
    return f"{signal.strategy}:{signal.signal_id}"


def route(signal: SignalRaised, subscription: Subscription, *, waited: float, lately: int) -> Decimal | Rejection:
    """Return the quantity that the account trades, or why it does not trade.

    `waited` is the seconds between the signal's record and now; `lately` how many signals of this subscription were
    accepted in the minute before it.
    """
    if not subscription.enabled:
        return Rejection("disabled", "the subscription is switched off")
    if not subscription.known:
        return Rejection("unknown_account", f"there is no account {subscription.account}")
    if subscription.max_age is not None and waited > subscription.max_age:
        return Rejection("stale", f"the signal waited {waited:.0f} s; {subscription.max_age} are allowed")
    if subscription.max_per_minute is not None and lately >= subscription.max_per_minute:
        return Rejection("rate", f"{lately} signals were taken within a minute; {subscription.max_per_minute} may be")
    if subscription.instrument is None:
        return Rejection("unknown_symbol", f"{signal.symbol} is not traded where {subscription.account} trades")
    return _size(signal, subscription, subscription.instrument)


def request_of(signal: SignalRaised, account: str, quantity: Decimal) -> TradeRequested:
    """Return the account's order."""
    return TradeRequested(
        idempotency_key=idempotency_key(signal),
        account=account,
        symbol=signal.symbol,
        side=signal.side,
        quantity=quantity,
        order_type=signal.order_type,
        limit_price=signal.limit_price,
        time_in_force=signal.time_in_force,
    )


def _size(signal: SignalRaised, subscription: Subscription, instrument: Instrument) -> Decimal | Rejection:
    """Scale, cut to the limits of account and venue, and round down to whole lots."""
    wanted = multiply(signal.quantity, subscription.size_factor)
    limits = (subscription.max_quantity, instrument.max_quantity)
    quantity = round_down(min(wanted, *(limit for limit in limits if limit is not None)), instrument.lot)
    if quantity <= 0 or quantity < instrument.min_quantity:
        least = format_decimal(max(instrument.lot, instrument.min_quantity))
        return Rejection("too_small", f"the quantity comes to {format_decimal(quantity)}; the least is {least}")
    if quantity >= CEILING:
        return Rejection("too_large", f"the quantity comes to {format_decimal(quantity)}, more than can be booked")
    value = multiply(quantity, signal.limit_price or signal.observed_price)
    if subscription.max_notional is not None and value > subscription.max_notional:
        most = format_decimal(subscription.max_notional)
        return Rejection("max_notional", f"the order would be worth {format_decimal(value)}; {most} is allowed")
    return quantity
