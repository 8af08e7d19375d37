"""The interface of a venue, as the execution service uses it.

A venue guarantees two things. It rejects an order that arrives after the order's expiry, so that "not found" is
conclusive once expiry and clock skew have passed. And it never accepts a client order id twice, not even after the
first order is closed, so that a repeated `place` cannot trade twice.

VenueError
├── VenueRejected     the order was definitely not placed: the venue rejected it
├── VenueUnavailable  the request definitely had no effect: it was not sent, or was rate limited; it may be retried
└── VenueUnknown      the request was sent and not answered: query, never repeat
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
    """Base of the errors of a venue."""


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
    """Status of an order at the venue."""

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
    """Kinds of reports; the values are those of `trade.venue-report`."""

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

    A market order has no price; its time in force is ignored (it takes what is there, and the rest expires).
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
    """One execution; `trade_id` is unique per symbol at the venue. A negative fee is a refund (of a bust)."""

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
    """One line of the account's trade history; `bust_of` is the trade that this one reverses."""

    fill: Fill
    symbol: str
    side: Side
    venue_order_id: str
    bust_of: str | None = None


@dataclass(frozen=True, slots=True)
class VenueReport:
    """A report about an order. `report_id` is the same however often and by whatever channel it arrives.

    `fill` is set for fills, and for a bust, where it is the reversed execution under its own trade id. `cursor`, stored
    once this report is processed, lets `reports` continue from here.
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
    """An account's balance of one asset: free, and locked in resting orders."""

    free: Decimal
    locked: Decimal


@dataclass(frozen=True, slots=True)
class SymbolRules:
    """A venue's rules for one symbol: prices in steps of `tick`, quantities in steps of `lot`."""

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
        """Place the order; for a client order id that the venue already has, return that order's report."""
        ...

    async def cancel(self, client_order_id: str, symbol: str) -> OrderReport | None:
        """Cancel the order and return how it ended: a fill may have been faster. None: no such order."""
        ...

    async def query(self, client_order_id: str, symbol: str, *, fills: bool = True) -> OrderReport | None:
        """Return the order, without its fills unless `fills`.

        None: the venue has no such order (and after expiry and skew: never will).
        """
        ...

    async def open_orders(self) -> Sequence[OrderReport]:
        """Return all resting orders, without their fills."""
        ...

    async def orders_since(self, symbol: str, after: str | None = None) -> Sequence[OrderReport]:
        """Return the orders whose venue order id comes after `after`, oldest first, without their fills."""
        ...

    async def trades_since(self, symbol: str, after: str | None = None) -> Sequence[VenueTrade]:
        """Return the trades whose id comes after `after`, oldest first, busts included."""
        ...

    async def balances(self) -> Mapping[str, Balance]:
        """Return the account's balances by asset."""
        ...

    async def rules(self) -> Mapping[str, SymbolRules]:
        """Return the rules by symbol."""
        ...

    async def prices(self) -> Mapping[str, Decimal]:
        """Return the last price of each symbol that has one."""
        ...

    def reports(self, cursor: str | None = None) -> AsyncGenerator[VenueReport]:
        """Stream the reports of the account's orders: at least once, in order for each order, without end.

        From a stored cursor no later report is left out, even after failures; with None, from the beginning.
        `aclose` it when done.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
