"""What the exchange remembers: frozen rows, as the ledger stores them and the API shows them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

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


Row = Sequence[Any]

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY, key TEXT NOT NULL UNIQUE, secret TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS orders (
    id INTEGER PRIMARY KEY, account TEXT NOT NULL, client_order_id TEXT NOT NULL, symbol TEXT NOT NULL,
    side TEXT NOT NULL, type TEXT NOT NULL, time_in_force TEXT NOT NULL, quantity INTEGER NOT NULL, price INTEGER,
    status TEXT NOT NULL, created INTEGER NOT NULL, updated INTEGER NOT NULL,
    executed INTEGER NOT NULL, quote INTEGER NOT NULL, code INTEGER NOT NULL, reason TEXT NOT NULL,
    UNIQUE (account, client_order_id)
) STRICT;
CREATE INDEX IF NOT EXISTS orders_by_symbol ON orders (account, symbol, id);
CREATE INDEX IF NOT EXISTS orders_open ON orders (id) WHERE status IN ('NEW', 'PARTIALLY_FILLED');
CREATE TABLE IF NOT EXISTS trade (
    id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL, account TEXT NOT NULL, symbol TEXT NOT NULL, side TEXT NOT NULL,
    quantity INTEGER NOT NULL, price INTEGER NOT NULL, fee INTEGER NOT NULL, fee_asset TEXT NOT NULL,
    maker INTEGER NOT NULL, time INTEGER NOT NULL, bust_of INTEGER UNIQUE
) STRICT;
CREATE INDEX IF NOT EXISTS trade_by_symbol ON trade (account, symbol, id);
CREATE INDEX IF NOT EXISTS trade_by_order ON trade (order_id);
CREATE TABLE IF NOT EXISTS posting (
    entry INTEGER NOT NULL, account TEXT NOT NULL, asset TEXT NOT NULL, amount INTEGER NOT NULL, time INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY, account TEXT NOT NULL, execution TEXT NOT NULL, order_id INTEGER NOT NULL,
    trade_id INTEGER, status TEXT NOT NULL, executed INTEGER NOT NULL, quote INTEGER NOT NULL, time INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS holding (
    account TEXT NOT NULL, asset TEXT NOT NULL, free INTEGER NOT NULL, locked INTEGER NOT NULL,
    PRIMARY KEY (account, asset)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS market (
    symbol TEXT PRIMARY KEY, bar INTEGER NOT NULL, taken_bids INTEGER NOT NULL, taken_asks INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""

ORDER_COLUMNS: Final = (
    "id, account, client_order_id, symbol, side, type, time_in_force, quantity, price, status, created, updated, "
    "executed, quote, code, reason"
)

TRADE_COLUMNS: Final = "id, order_id, account, symbol, side, quantity, price, fee, fee_asset, maker, time, bust_of"

_WIDTHS: Final = {"account": 3, "orders": 16, "trade": 12, "posting": 5, "event": 9, "holding": 4, "market": 4}

_CHANGED: Final = "status, updated, executed, quote, code, reason"

_AGAIN: Final = {
    "orders": f" WHERE true ON CONFLICT (id) DO UPDATE SET ({_CHANGED}) = (excluded."
    + _CHANGED.replace(", ", ", excluded.")
    + ")",
    "holding": " WHERE true ON CONFLICT (account, asset) DO UPDATE SET free = excluded.free, locked = excluded.locked",
    "market": " WHERE true ON CONFLICT (symbol) DO UPDATE SET (bar, taken_bids, taken_asks)"
    " = (excluded.bar, excluded.taken_bids, excluded.taken_asks)",
}

INSERTS: Final = {
    table: f"INSERT INTO {table} SELECT "
    + ", ".join(f"value ->> {column}" for column in range(width))
    + " FROM json_each(?)"
    + _AGAIN.get(table, "")
    for table, width in _WIDTHS.items()
}


def to_units(amount: Decimal) -> int:
    """Return an amount in units of 10^-8."""
    return int(amount.scaleb(8))


def to_decimal(units: int) -> Decimal:
    """Return the amount of so many units of 10^-8."""
    return Decimal(units).scaleb(-8)


def to_rows(changes: Sequence[Change]) -> dict[str, list[Row]]:
    """Return the rows of all changes, by table; of a row written several times, the last."""
    orders: dict[int, Order] = {}
    holdings: dict[tuple[str, str], Row] = {}
    positions: dict[str, Row] = {}
    for change in changes:
        orders.update(change.orders)
        for (account, asset), held in change.holdings.items():
            holdings[account, asset] = (account, asset, to_units(held.free), to_units(held.locked))
        for symbol, at in change.positions.items():
            positions[symbol] = (symbol, at.bar, to_units(at.taken_bids), to_units(at.taken_asks))
    return {
        "account": [(one.name, one.key, one.secret) for change in changes for one in change.accounts],
        "orders": [_order_row(order) for order in orders.values()],
        "trade": [_trade_row(trade) for change in changes for trade in change.trades],
        "posting": [
            (one.entry, one.account, one.asset, to_units(one.amount), change.time)
            for change in changes
            for one in change.postings
        ],
        "event": [_event_row(event) for change in changes for event in change.events],
        "holding": list(holdings.values()),
        "market": list(positions.values()),
    }


def to_order(row: Row) -> Order:
    """Read an order from `ORDER_COLUMNS`."""
    price = None if row[8] is None else to_decimal(row[8])
    ticket = Ticket(
        row[1], row[2], row[3], Side(row[4]), OrderType(row[5]), TimeInForce(row[6]), to_decimal(row[7]), price
    )
    return Order(
        row[0], ticket, Status(row[9]), row[10], row[11], to_decimal(row[12]), to_decimal(row[13]), row[14], row[15]
    )


def to_trade(row: Row) -> Trade:
    """Read a trade from `TRADE_COLUMNS`."""
    quantity, price, fee = (to_decimal(units) for units in row[5:8])
    return Trade(
        row[0], row[1], row[2], row[3], Side(row[4]), quantity, price, fee, row[8], bool(row[9]), row[10], row[11]
    )


def _order_row(order: Order) -> Row:
    ticket = order.ticket
    return (
        order.id, ticket.account, ticket.client_order_id, ticket.symbol, ticket.side, ticket.type, ticket.time_in_force,
        to_units(ticket.quantity), None if ticket.price is None else to_units(ticket.price), order.status,
        order.created, order.updated, to_units(order.executed), to_units(order.quote), order.code, order.reason,
    )  # fmt: skip


def _trade_row(trade: Trade) -> Row:
    return (
        trade.id, trade.order_id, trade.account, trade.symbol, trade.side, to_units(trade.quantity),
        to_units(trade.price), to_units(trade.fee), trade.fee_asset, int(trade.maker), trade.time, trade.bust_of,
    )  # fmt: skip


def _event_row(event: Event) -> Row:
    order, trade = event.order, event.trade
    return (
        event.id, order.ticket.account, event.execution, order.id, None if trade is None else trade.id, order.status,
        to_units(order.executed), to_units(order.quote), event.time,
    )  # fmt: skip
