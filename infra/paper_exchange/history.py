"""Queries over the ledger. They have a connection and a thread of their own, and see durable rows only."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from tradesaga.infra.paper_exchange.ledger import connect
from tradesaga.infra.paper_exchange.records import Holding, Order, Trade, read_row, to_order, to_trade
from tradesaga.schemas.amounts import format_decimal

_LATEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Page:
    """Selects the rows of a query: from an id or a time on (nanoseconds, both ends included), otherwise the newest."""

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
        """Return the order with this client order id."""
        return self._one_order("account = ? AND client_order_id = ?", account, client_order_id)

    def open_orders(self, account: str, symbol: str | None) -> list[Order]:
        """Return an account's resting orders, of one symbol or of all."""
        query = (
            "SELECT * FROM orders WHERE status IN ('NEW', 'PARTIALLY_FILLED') AND account = ?1"
            " AND (?2 IS NULL OR symbol = ?2) ORDER BY id"
        )
        return [to_order(row) for row in self._reader.execute(query, (account, symbol))]

    def orders(self, account: str, symbol: str, page: Page) -> list[Order]:
        """Return a page of an account's orders, oldest first."""
        return [to_order(row) for row in self._page("orders", "created", account, symbol, page)]

    def trades(self, account: str, symbol: str, page: Page) -> list[Trade]:
        """Return a page of an account's trades, oldest first."""
        return [to_trade(row) for row in self._page("trade", "time", account, symbol, page)]

    def trade(self, trade_id: int) -> Trade | None:
        """Return a trade."""
        row = self._reader.execute("SELECT * FROM trade WHERE id = ?", (trade_id,)).fetchone()
        return None if row is None else to_trade(row)

    def busted(self, trade_id: int) -> bool:
        """Return whether a trade has been busted, or is itself the reversal of one."""
        query = "SELECT 1 FROM trade WHERE bust_of = ?1 OR (id = ?1 AND bust_of IS NOT NULL)"
        return self._reader.execute(query, (trade_id,)).fetchone() is not None

    def holdings(self, account: str) -> dict[str, Holding]:
        """Return an account's holdings by asset."""
        query = "SELECT asset, free, locked FROM holding WHERE account = ? ORDER BY asset"
        return {row.pop("asset"): Holding(**row) for row in map(read_row, self._reader.execute(query, (account,)))}

    def dump(self) -> dict[str, Any]:
        """Return the whole ledger and the differences found in it, read in one transaction."""
        self._reader.execute("BEGIN")
        try:
            return {
                "orders": self._table("SELECT * FROM orders ORDER BY id"),
                "trades": self._table("SELECT * FROM trade ORDER BY id"),
                "balances": self._table("SELECT * FROM holding"),
                "postings": self._table(_POSTED),
                "sums": self._table("SELECT asset, sum(amount) AS amount FROM posting GROUP BY asset"),
                "events": int(self._reader.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0]),
                "breaks": self._table(_BREAKS),
            }
        finally:
            self._reader.execute("COMMIT")

    def events(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Return the events after an id."""
        return self._table(f"SELECT * FROM event WHERE id > {after} ORDER BY id LIMIT {limit}")

    def _one_order(self, condition: str, *values: object) -> Order | None:
        row = self._reader.execute(f"SELECT * FROM orders WHERE {condition}", values).fetchone()
        return None if row is None else to_order(row)

    def _page(self, table: str, column: str, account: str, symbol: str, page: Page) -> Iterable[sqlite3.Row]:
        newest = page.first_id is None and page.start is None
        of_order = "" if page.order_id is None else f" AND order_id = {page.order_id}"
        query = (
            f"SELECT * FROM (SELECT * FROM {table} WHERE account = ?1 AND symbol = ?2 AND id >= coalesce(?3, 0)"
            f" AND {column} BETWEEN coalesce(?4, 0) AND coalesce(?5, {_LATEST}){of_order}"
            f" ORDER BY id{' DESC' if newest else ''} LIMIT {page.limit}) ORDER BY id"
        )
        return self._reader.execute(query, (account, symbol, page.first_id, page.start, page.end))

    def _table(self, query: str) -> list[dict[str, Any]]:
        return [
            {name: format_decimal(one) if isinstance(one, Decimal) else one for name, one in read_row(row).items()}
            for row in self._reader.execute(query)
        ]


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
