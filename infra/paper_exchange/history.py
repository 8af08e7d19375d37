"""What the ledger can tell: read by a connection and a thread of its own, always from what is durable."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tradesaga.infra.paper_exchange.ledger import connect
from tradesaga.infra.paper_exchange.records import (
    ORDER_COLUMNS,
    TRADE_COLUMNS,
    Holding,
    Order,
    Row,
    Trade,
    to_decimal,
    to_order,
    to_trade,
)
from tradesaga.schemas.amounts import format_decimal

_LATEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Page:
    """Which rows to give: from an id or a time on (nanoseconds, both ends included), or else the newest."""

    limit: int = 500
    first_id: int | None = None
    start: int | None = None
    end: int | None = None
    order_id: int | None = None


class History:
    """Queries over one open ledger."""

    def __init__(self, path: Path) -> None:
        self._reader: sqlite3.Connection = connect(path)
        self._reader.execute("PRAGMA query_only = ON")

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def order(self, order_id: int) -> Order | None:
        """Return an order."""
        return self._one_order("id = ?", order_id)

    def named_order(self, account: str, client_order_id: str) -> Order | None:
        """Return the order that has this client order id."""
        return self._one_order("account = ? AND client_order_id = ?", account, client_order_id)

    def open_orders(self, account: str, symbol: str | None) -> list[Order]:
        """Return the resting orders of an account, of one symbol or of all."""
        query = (
            f"SELECT {ORDER_COLUMNS} FROM orders WHERE status IN ('NEW', 'PARTIALLY_FILLED') AND account = ?1"
            " AND (?2 IS NULL OR symbol = ?2) ORDER BY id"
        )
        return [to_order(row) for row in self._reader.execute(query, (account, symbol))]

    def orders(self, account: str, symbol: str, page: Page) -> list[Order]:
        """Return a page of an account's orders, oldest first."""
        return [to_order(row) for row in self._page(f"{ORDER_COLUMNS} FROM orders", "created", account, symbol, page)]

    def trades(self, account: str, symbol: str, page: Page) -> list[Trade]:
        """Return a page of an account's trades, oldest first."""
        return [to_trade(row) for row in self._page(f"{TRADE_COLUMNS} FROM trade", "time", account, symbol, page)]

    def trade(self, trade_id: int) -> Trade | None:
        """Return a trade."""
        row = self._reader.execute(f"SELECT {TRADE_COLUMNS} FROM trade WHERE id = ?", (trade_id,)).fetchone()
        return None if row is None else to_trade(row)

    def busted(self, trade_id: int) -> bool:
        """Return whether a trade has been taken back, or takes one back itself."""
        query = "SELECT 1 FROM trade WHERE bust_of = ?1 OR (id = ?1 AND bust_of IS NOT NULL)"
        return self._reader.execute(query, (trade_id,)).fetchone() is not None

    def holdings(self, account: str) -> dict[str, Holding]:
        """Return an account's holdings by asset."""
        query = "SELECT asset, free, locked FROM holding WHERE account = ? ORDER BY asset"
        rows = self._reader.execute(query, (account,))
        return {asset: Holding(to_decimal(free), to_decimal(locked)) for asset, free, locked in rows}

    def dump(self) -> dict[str, Any]:
        """Return the whole ledger and its own checks, as of one moment."""
        self._reader.execute("BEGIN")
        try:
            return {
                "orders": self._table(f"SELECT {ORDER_COLUMNS} FROM orders ORDER BY id", _AMOUNTS),
                "trades": self._table(f"SELECT {TRADE_COLUMNS} FROM trade ORDER BY id", _AMOUNTS),
                "balances": self._table("SELECT account, asset, free, locked FROM holding", _AMOUNTS),
                "postings": self._table(_POSTED, _AMOUNTS),
                "sums": self._table("SELECT asset, sum(amount) AS amount FROM posting GROUP BY asset", _AMOUNTS),
                "events": int(self._reader.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0]),
                "breaks": self._table(_BREAKS, _AMOUNTS),
            }
        finally:
            self._reader.execute("COMMIT")

    def events(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Return the events that follow an id."""
        return self._table(f"SELECT * FROM event WHERE id > {after} ORDER BY id LIMIT {limit}", _AMOUNTS)

    def _one_order(self, condition: str, *values: object) -> Order | None:
        row = self._reader.execute(f"SELECT {ORDER_COLUMNS} FROM orders WHERE {condition}", values).fetchone()
        return None if row is None else to_order(row)

    def _page(self, what: str, column: str, account: str, symbol: str, page: Page) -> Iterable[Row]:
        newest = page.first_id is None and page.start is None
        of_order = "" if page.order_id is None else f" AND order_id = {page.order_id}"
        query = (
            f"SELECT * FROM (SELECT {what} WHERE account = ?1 AND symbol = ?2 AND id >= coalesce(?3, 0)"
            f" AND {column} BETWEEN coalesce(?4, 0) AND coalesce(?5, {_LATEST}){of_order}"
            f" ORDER BY id{' DESC' if newest else ''} LIMIT {page.limit}) ORDER BY id"
        )
        return self._reader.execute(query, (account, symbol, page.first_id, page.start, page.end))

    def _table(self, query: str, amounts: frozenset[str]) -> list[dict[str, Any]]:
        cursor = self._reader.execute(query)
        names = [column[0] for column in cursor.description]
        return [
            {
                name: format_decimal(to_decimal(value)) if name in amounts and value is not None else value
                for name, value in zip(names, row, strict=True)
            }
            for row in cursor
        ]


_AMOUNTS = frozenset({"quantity", "price", "executed", "quote", "fee", "free", "locked", "amount"})
_POSTED = "SELECT account, asset, sum(amount) AS amount FROM posting GROUP BY account, asset ORDER BY account, asset"
_BREAKS = """
    SELECT 'entry ' || entry || ' does not add up' AS what, asset, sum(amount) AS amount
    FROM posting GROUP BY entry, asset HAVING sum(amount) <> 0
    UNION ALL
    SELECT 'balance of ' || h.account || ' differs from its postings', h.asset,
        h.free + h.locked - coalesce((SELECT sum(amount) FROM posting p
                                      WHERE p.account = h.account AND p.asset = h.asset), 0) AS amount
    FROM holding h WHERE amount <> 0
    UNION ALL
    SELECT 'order ' || o.id || ' differs from its trades', o.symbol,
        o.executed - coalesce((SELECT sum(quantity) FROM trade t WHERE t.order_id = o.id AND t.bust_of IS NULL), 0)
            AS amount
    FROM orders o WHERE amount <> 0
"""
