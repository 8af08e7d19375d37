"""Validate an order against its instrument's rules, and compute its hold."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import UUID

from tradesaga.sagas.trade.arithmetic import CEILING, is_multiple, multiply, round_down, round_up
from tradesaga.schemas.amounts import format_decimal
from tradesaga.schemas.messages.trade import OrderType, Side, TradeRequested

PREFIX: Final = "ts"

_LENGTH: Final = len(PREFIX) + 32


def client_order_id(saga_id: UUID) -> str:
    """Return the client order id of a saga's order: 34 characters of `[a-z0-9]`."""
    return f"{PREFIX}{saga_id.hex}"


def saga_of(order_id: str) -> UUID | None:
    """Return the saga of an order, or None for an order that is not ours."""
    if len(order_id) != _LENGTH or not order_id.startswith(PREFIX):
        return None
    try:
        saga_id = UUID(hex=order_id.removeprefix(PREFIX))
    except ValueError:
        return None
    return saga_id if client_order_id(saga_id) == order_id else None


@dataclass(frozen=True, slots=True)
class Instrument:
    """A venue's rules for one symbol. `fee_rate` is its highest fee, as a fraction of the quote amount.

    A market order is sent with a limit at most `collar` (a fraction of the price) beyond `reference_price`, the last
    known price, so that its hold always suffices; without a known price it is rejected.
    """

    symbol: str
    base: str
    quote: str
    tick: Decimal
    lot: Decimal
    min_quantity: Decimal
    max_quantity: Decimal
    min_notional: Decimal
    fee_rate: Decimal
    collar: Decimal
    reference_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an order is rejected: a stable code for programs, a sentence for people."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Terms:
    """A valid order's hold (`hold` of `hold_asset`), value for limits (`notional`) and worst price."""

    hold_asset: str
    hold: Decimal
    notional: Decimal
    worst_price: Decimal


def assess(request: TradeRequested, instrument: Instrument) -> Terms | Rejection:
    """Check the order against the instrument's rules and compute its terms."""
    price = _worst_price(request, instrument)
    if price is None:
        return Rejection("no_reference_price", f"no price of {request.symbol} is known yet; place a limit order")
    refusal = _check_shape(request, instrument, price)
    if refusal is not None:
        return refusal
    value = round_up(multiply(request.quantity, price))
    if value < instrument.min_notional:
        least = format_decimal(instrument.min_notional)
        return Rejection("min_notional", f"the order is worth {format_decimal(value)}, less than the least, {least}")
    # A sell may get more than its limit; its value is computed with the last price if that is higher.
    counted = price if request.side is Side.BUY else max(price, instrument.reference_price or price)
    notional = round_up(multiply(request.quantity, counted))
    hold_asset, hold = _hold(request, instrument, price)
    if max(notional, hold) >= CEILING:
        return Rejection("too_large", f"the order is worth {format_decimal(notional)}, more than can be booked")
    return Terms(hold_asset, hold, notional, price)


def _worst_price(request: TradeRequested, instrument: Instrument) -> Decimal | None:
    """Return the limit of a limit order; for a market order the last price with the collar, in whole ticks."""
    if request.order_type is OrderType.LIMIT:
        return request.limit_price
    last = instrument.reference_price
    if last is None:
        return None
    if request.side is Side.BUY:
        return max(round_down(multiply(last, 1 + instrument.collar), instrument.tick), instrument.tick)
    return round_up(multiply(last, 1 - instrument.collar), instrument.tick)


def _check_shape(request: TradeRequested, instrument: Instrument, price: Decimal) -> Rejection | None:
    if not is_multiple(price, instrument.tick):
        return Rejection("tick", f"the price is not in steps of {format_decimal(instrument.tick)}")
    if not is_multiple(request.quantity, instrument.lot):
        return Rejection("lot", f"the quantity is not in steps of {format_decimal(instrument.lot)}")
    if request.quantity < instrument.min_quantity:
        return Rejection("min_quantity", f"the quantity is below the least, {format_decimal(instrument.min_quantity)}")
    if request.quantity > instrument.max_quantity:
        return Rejection("max_quantity", f"the quantity is above the most, {format_decimal(instrument.max_quantity)}")
    return None


def _hold(request: TradeRequested, instrument: Instrument, price: Decimal) -> tuple[str, Decimal]:
    """Return what is held: a buy's worst cost and highest fee, rounded up; a sell's quantity."""
    if request.side is Side.BUY:
        return instrument.quote, round_up(multiply(request.quantity, price, 1 + instrument.fee_rate))
    return instrument.base, request.quantity
