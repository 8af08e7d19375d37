"""Records of the exchange, and the tables of the ledger that hold them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from enum import StrEnum
from sqlite3 import Row
from typing import Any, Final

import orjson

from tradesaga.schemas.messages.trade import OrderType, Side, TimeInForce

MARKET_ACCOUNT: Final = "@market"
FEES_ACCOUNT: Final = "@fees"
DEPOSITS_ACCOUNT: Final = "@deposits"
ZERO: Final = Decimal(0)


class Status(StrEnum):
    """An order's status, as Binance spells it."""

    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"


class Execution(StrEnum):
    """An execution type, as Binance's execution reports spell it; TRADE_BUST exists only at this venue."""

    NEW = "NEW"
    TRADE = "TRADE"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"
    TRADE_BUST = "TRADE_BUST"


@dataclass(frozen=True, slots=True)
class Account:
    """A trading account; requests are signed with its secret."""

    name: str
    key: str
    secret: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """The parameters of a new order, well-formed but not yet checked against the market's rules."""

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
    """The state of an order; times are nanoseconds since 1970 UTC."""

    id: int
    ticket: Ticket
    status: Status
    created: int
    updated: int
    executed: Decimal = ZERO
    quote: Decimal = ZERO
    code: int = 0
    reason: str = ""

    @property
    def remaining(self) -> Decimal:
        """The quantity not filled yet."""
        return self.ticket.quantity - self.executed


@dataclass(frozen=True, slots=True)
class Trade:
    """One execution of one account; with `bust_of`, it reverses that trade and has the opposite side."""

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
    """One posting of a double entry; the postings of an entry sum to zero in each asset."""

    entry: int
    account: str
    asset: str
    amount: Decimal
    time: int


@dataclass(frozen=True, slots=True)
class Event:
    """An event for the account's user data stream; ids rise without gaps over the whole venue."""

    id: int
    execution: Execution
    order: Order
    time: int
    trade: Trade | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """An account's balance of one asset."""

    free: Decimal = ZERO
    locked: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Position:
    """The index of a market's current bar, and how much of its liquidity has been taken."""

    bar: int
    taken_bids: Decimal = ZERO
    taken_asks: Decimal = ZERO


@dataclass(slots=True)
class Change:
    """Everything that one operation changes, written in one transaction."""

    time: int
    entry: int
    accounts: list[Account] = field(default_factory=list["Account"])
    orders: dict[int, Order] = field(default_factory=dict[int, "Order"])
    trades: list[Trade] = field(default_factory=list["Trade"])
    postings: list[Posting] = field(default_factory=list["Posting"])
    events: list[Event] = field(default_factory=list["Event"])
    holdings: dict[tuple[str, str], Holding] = field(default_factory=dict[tuple[str, str], "Holding"])
    positions: dict[str, Position] = field(default_factory=dict[str, "Position"])


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


_PATHS: Final = {
    "account": "name key secret",
    "orders": "id ticket.account ticket.client_order_id ticket.symbol ticket.side ticket.type ticket.time_in_force"
    " ticket.quantity ticket.price status created updated executed quote code reason",
    "trade": "id order_id account symbol side quantity price fee fee_asset maker time bust_of",
    "posting": "entry account asset amount time",
    "event": "id order.ticket.account execution order.id trade.id order.status order.executed order.quote time",
    "holding": "account asset holding.free holding.locked",
    "market": "symbol position.bar position.taken_bids position.taken_asks",
}
"""Where the values of each table's columns, in order, are in a record."""

_CONFLICTS: Final = {
    "orders": ("id", "status updated executed quote code reason"),
    "holding": ("account, asset", "free locked"),
    "market": ("symbol", "bar taken_bids taken_asks"),
}
"""The key of rows that are written again, and the columns that are then replaced."""

_AMOUNTS: Final = frozenset(
    {"quantity", "price", "executed", "quote", "fee", "free", "locked", "amount", "taken_bids", "taken_asks"}
)

_TYPES: Final[dict[str, Callable[[Any], Any]]] = {
    "side": Side, "type": OrderType, "time_in_force": TimeInForce, "status": Status, "maker": bool,
}  # fmt: skip

_TICKET_COLUMNS: Final = tuple(one.name for one in fields(Ticket))


def _insert(table: str, paths: str) -> str:
    values = ", ".join(f"value ->> '$.{path}'" for path in paths.split())
    query = f"INSERT INTO {table} SELECT {values} FROM json_each(?)"
    if table not in _CONFLICTS:
        return query
    key, columns = _CONFLICTS[table]
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns.split())
    return f"{query} WHERE true ON CONFLICT ({key}) DO UPDATE SET {changes}"


INSERTS: Final = {table: _insert(table, paths) for table, paths in _PATHS.items()}


def to_units(amount: Decimal) -> int:
    """Return an amount in units of 10^-8."""
    return int(amount.scaleb(8))


def to_records(changes: Sequence[Change]) -> dict[str, Iterable[Any]]:
    """Return the records of all changes, by table; of one written several times, the last."""
    orders: dict[int, Order] = {}
    holdings: dict[tuple[str, str], Holding] = {}
    positions: dict[str, Position] = {}
    for change in changes:
        orders |= change.orders
        holdings |= change.holdings
        positions |= change.positions
    return {
        "account": [one for change in changes for one in change.accounts],
        "orders": list(orders.values()),
        "trade": [one for change in changes for one in change.trades],
        "posting": [one for change in changes for one in change.postings],
        "event": [one for change in changes for one in change.events],
        "holding": [{"account": name, "asset": asset, "holding": one} for (name, asset), one in holdings.items()],
        "market": [{"symbol": symbol, "position": one} for symbol, one in positions.items()],
    }


def encode_rows(records: Iterable[Any]) -> str:
    """Return the JSON array that an insert reads; amounts are in units."""
    return orjson.dumps(records, default=to_units).decode()


def read_row(row: Row) -> dict[str, Any]:
    """Return a row's values by column, with amounts as decimals."""
    return {
        name: Decimal(value).scaleb(-8) if name in _AMOUNTS and value is not None else value
        for name, value in dict(row).items()
    }


def to_order(row: Row) -> Order:
    """Return the order of a row of `orders`."""
    values = _read_typed(row)
    ticket = Ticket(**{name: values.pop(name) for name in _TICKET_COLUMNS})
    return Order(ticket=ticket, **values)


def to_trade(row: Row) -> Trade:
    """Return the trade of a row of `trade`."""
    return Trade(**_read_typed(row))


def _read_typed(row: Row) -> dict[str, Any]:
    return {name: _TYPES[name](value) if name in _TYPES else value for name, value in read_row(row).items()}
