"""The port through which orders reach a venue: what the execution service needs of it, and what it may rely on.

A venue behind this port keeps two promises. It refuses an order that reaches it after the order's expiry, so that
"not found" is an answer once expiry and clock skew have passed. And it never takes one client order id twice, not even
after the first order is closed, so that a repeated `place` cannot trade twice.

VenueError
├── VenueRejected     the order was definitely not placed: the venue said no
├── VenueUnavailable  the request definitely had no effect: it was not sent, or not let in; it may be tried again
└── VenueUnknown      sent and not answered: ask, never repeat
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from tradesaga.sagas.errors import OutcomeUnknownError, SagaError
from tradesaga.schemas.messages.trade import OrderType, Side, TimeInForce

SYMBOL_UNKNOWN = "-1121"
EXPIRED = "-1021"


class VenueError(SagaError):
    """Root of what a venue port raises."""


class VenueRejected(VenueError):  # noqa: N818 - named for what happened, as the other outcomes are
    """The order was definitely not placed, and this request never will be; `code` is the venue's own."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


class VenueUnavailable(VenueError):  # noqa: N818
    """The request definitely had no effect: refused connection, or turned away by a rate limit."""


class VenueUnknown(VenueError, OutcomeUnknownError):  # noqa: N818
    """The request was sent and its effect is not known: time-out, broken connection, or an answer of 5xx."""


class OrderStatus(StrEnum):
    """Where an order stands at the venue."""

    ACKNOWLEDGED = "acknowledged"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more can be filled."""
        return self not in {OrderStatus.ACKNOWLEDGED, OrderStatus.PARTIALLY_FILLED}


class ReportKind(StrEnum):
    """What a report says; the values are those of `trade.venue-report`."""

    ACKNOWLEDGED = "acknowledged"
    PARTIAL_FILL = "partial_fill"
    FILL = "fill"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    BUSTED = "busted"


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order to place. `client_order_id` is at most 36 of `[A-Za-z0-9_-]`; `expires` is nanoseconds since 1970 UTC.

    A market order has no price; its time in force does not count (it takes what is there, and the rest expires).
    """

    client_order_id: str
    symbol: str
    side: Side
    type: OrderType
    quantity: Decimal
    expires: int
    price: Decimal | None = None
    time_in_force: TimeInForce = TimeInForce.GTC


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution; `trade_id` is unique per symbol at the venue. A negative fee was given back (a bust)."""

    trade_id: str
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_asset: str
    time: int


@dataclass(frozen=True, slots=True)
class OrderReport:
    """An order as the venue sees it now, with its fills so far; `time` is nanoseconds, the venue's clock."""

    client_order_id: str
    venue_order_id: str
    symbol: str
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    quantity: Decimal
    price: Decimal | None
    status: OrderStatus
    filled: Decimal
    quote: Decimal
    time: int
    fills: tuple[Fill, ...] = ()
    reason: str = ""

    @property
    def fees(self) -> dict[str, Decimal]:
        """Sum the fees by asset."""
        total: dict[str, Decimal] = {}
        for fill in self.fills:
            total[fill.fee_asset] = total.get(fill.fee_asset, Decimal(0)) + fill.fee
        return total


@dataclass(frozen=True, slots=True)
class VenueTrade:
    """One line of the account's trade history; `bust_of` names the trade that this one takes back."""

    fill: Fill
    symbol: str
    side: Side
    venue_order_id: str
    bust_of: str | None = None


@dataclass(frozen=True, slots=True)
class VenueReport:
    """Something that happened to an order. `report_id` is the same however often and by whatever way it arrives.

    `fill` is set for fills, and for a bust, where it is the execution taken back under its own trade id. `cursor`,
    stored once this report is dealt with, lets `reports` go on from here.
    """

    report_id: str
    kind: ReportKind
    client_order_id: str
    venue_order_id: str
    symbol: str
    cumulative_quantity: Decimal
    cumulative_quote: Decimal
    time: int
    cursor: str
    fill: Fill | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account holds of one asset: free to use, and locked in resting orders."""

    free: Decimal
    locked: Decimal


@dataclass(frozen=True, slots=True)
class SymbolRules:
    """What the venue takes: prices in steps of `tick`, quantities of `lot`."""

    symbol: str
    base: str
    quote: str
    tick: Decimal
    lot: Decimal
    minimum_quantity: Decimal
    maximum_quantity: Decimal
    minimum_notional: Decimal


class VenuePort(Protocol):
    """One account at one venue. Symbols are written `BASE/QUOTE`. Any call may raise a `VenueError`."""

    async def place(self, order: NewOrder) -> OrderReport:
        """Place the order; for a client order id that the venue has already, give that order's report."""
        ...

    async def cancel(self, client_order_id: str, symbol: str) -> OrderReport | None:
        """Cancel, and say how the order ended: a fill may have been faster. None: the venue knows no such order."""
        ...

    async def query(self, client_order_id: str, symbol: str, *, fills: bool = True) -> OrderReport | None:
        """Return the order, without its fills unless `fills`.

        None: the venue knows no such order now (after expiry and skew: and never will).
        """
        ...

    async def open_orders(self) -> Sequence[OrderReport]:
        """Give all orders that rest; their fills are not read."""
        ...

    async def orders_since(self, symbol: str, after: str | None = None) -> Sequence[OrderReport]:
        """Give the orders whose venue order id comes after `after`, oldest first; their fills are not read."""
        ...

    async def trades_since(self, symbol: str, after: str | None = None) -> Sequence[VenueTrade]:
        """Give the trades whose id comes after `after`, oldest first, busts included."""
        ...

    async def balances(self) -> Mapping[str, Balance]:
        """Give what the account holds, by asset."""
        ...

    async def rules(self) -> Mapping[str, SymbolRules]:
        """Give what may be traded, by symbol."""
        ...

    async def prices(self) -> Mapping[str, Decimal]:
        """Give the last price of each symbol that has one."""
        ...

    def reports(self, cursor: str | None = None) -> AsyncGenerator[VenueReport]:
        """Stream what happens to the account's orders: at least once each, in order per order, for ever.

        From a stored cursor nothing after it is left out, whatever broke meanwhile; with None, from the beginning.
        `aclose` it when done.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
