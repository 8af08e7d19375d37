"""What the exchange remembers: frozen rows, as the ledger stores them and the API shows them."""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final

from tradesaga.schemas.messages.trade import OrderType, Side, TimeInForce

MARKET_ACCOUNT: Final = "@market"
FEES_ACCOUNT: Final = "@fees"
DEPOSITS_ACCOUNT: Final = "@deposits"

NOTHING: Final = Decimal(0)


class Status(StrEnum):
    """An order's status, as Binance spells it."""

    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"


class Execution(StrEnum):
    """What happened to an order, as Binance's execution reports spell it; TRADE_BUST is this venue's own."""

    NEW = "NEW"
    TRADE = "TRADE"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"
    TRADE_BUST = "TRADE_BUST"


@dataclass(frozen=True, slots=True)
class Account:
    """Who may trade; the secret signs requests."""

    name: str
    key: str
    secret: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """A well-formed request for an order, before any rule of the market has been applied."""

    account: str
    client_order_id: str
    symbol: str
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    quantity: Decimal
    price: Decimal | None


@dataclass(frozen=True, slots=True)
class Order:
    """An order at one moment of its life; times are nanoseconds since 1970 UTC."""

    id: int
    ticket: Ticket
    status: Status
    created: int
    updated: int
    executed: Decimal = NOTHING
    quote: Decimal = NOTHING
    code: int = 0
    reason: str = ""

    @property
    def remaining(self) -> Decimal:
        """What is not filled yet."""
        return self.ticket.quantity - self.executed


@dataclass(frozen=True, slots=True)
class Trade:
    """One execution of one account; one with `bust_of` takes that trade back, so its side is the other one."""

    id: int
    order_id: int
    account: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_asset: str
    maker: bool
    time: int
    bust_of: int | None = None


@dataclass(frozen=True, slots=True)
class Posting:
    """One side of a double entry; the postings of an entry add up to nothing in each asset."""

    entry: int
    account: str
    asset: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Event:
    """What the account's user data stream is told; ids rise without gaps over the whole venue."""

    id: int
    execution: Execution
    order: Order
    time: int
    trade: Trade | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """What an account has of one asset."""

    free: Decimal = NOTHING
    locked: Decimal = NOTHING


@dataclass(frozen=True, slots=True)
class Position:
    """Where a market stands on its tape, and what has been taken of the current bar's liquidity."""

    bar: int
    taken_bids: Decimal = NOTHING
    taken_asks: Decimal = NOTHING


@dataclass(slots=True)
class Change:
    """Everything one effect does, to be written in one transaction or not at all."""

    time: int
    entry: int
    accounts: list[Account] = field(default_factory=list["Account"])
    orders: dict[int, Order] = field(default_factory=dict[int, "Order"])
    trades: list[Trade] = field(default_factory=list["Trade"])
    postings: list[Posting] = field(default_factory=list["Posting"])
    events: list[Event] = field(default_factory=list["Event"])
    holdings: dict[tuple[str, str], Holding] = field(default_factory=dict[tuple[str, str], "Holding"])
    positions: dict[str, Position] = field(default_factory=dict[str, "Position"])
