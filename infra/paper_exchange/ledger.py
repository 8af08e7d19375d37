"""The ledger: one SQLite file, written a whole batch of changes at a time, durable before anything is answered.

A batch costs the same few statements whatever its size: rows go in as one JSON array for each table.
"""

import fcntl
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import orjson

from tradesaga.infra.paper_exchange.exchange import Memory
from tradesaga.infra.paper_exchange.records import Account, Change, Holding, Position
from tradesaga.infra.paper_exchange.rows import INSERTS, ORDER_COLUMNS, SCHEMA, to_decimal, to_order, to_rows


class LedgerBusyError(Exception):
    """Another process has the ledger open."""


class Ledger:
    """The file. After the start, `write` belongs to one thread and `find` to the one that runs the exchange."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = _lock(path.with_name(path.name + ".lock"))
        self._writer = connect(path)
        self._writer.executescript(SCHEMA)
        self._finder = connect(path)

    def close(self) -> None:
        """Close the file and let another process have it."""
        self._finder.close()
        self._writer.close()
        self._lock.close()

    def write(self, changes: Sequence[Change]) -> None:
        """Write all changes in one transaction, durable on return."""
        rows = to_rows(changes)
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            for table, values in rows.items():
                if values:
                    self._writer.execute(INSERTS[table], (orjson.dumps(values).decode(),))
            self._writer.execute("COMMIT")
        except BaseException:
            self._writer.execute("ROLLBACK")
            raise

    def remember(self) -> Memory:
        """Read back what the exchange needs to go on."""
        query = "SELECT account, asset, free, locked FROM holding"
        holdings = {
            (account, asset): Holding(to_decimal(free), to_decimal(locked))
            for account, asset, free, locked in self._writer.execute(query)
        }
        query = f"SELECT {ORDER_COLUMNS} FROM orders WHERE status IN ('NEW', 'PARTIALLY_FILLED') ORDER BY id"
        resting = {order.id: order for order in map(to_order, self._writer.execute(query))}
        positions = {
            symbol: Position(bar, to_decimal(bids), to_decimal(asks))
            for symbol, bar, bids, asks in self._writer.execute("SELECT * FROM market")
        }
        ids = [self._last(table, column) for table, column in _IDS]
        return Memory(holdings, resting, positions, *ids)

    def last_time(self) -> int:
        """Return the latest time written, below which the venue's clock must not fall."""
        return self._last("event", "time")

    def accounts(self) -> list[Account]:
        """Return all accounts."""
        return [Account(*row) for row in self._writer.execute("SELECT name, key, secret FROM account")]

    def setting(self, name: str, value: str) -> str:
        """Return a setting, which is `value` from its first reading on."""
        self._writer.execute("INSERT INTO setting VALUES (?, ?) ON CONFLICT DO NOTHING", (name, value))
        return str(self._writer.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()[0])

    def find(self, account: str, client_order_id: str) -> int | None:
        """Return the id of the order that has this client order id, whatever its state."""
        query = "SELECT id FROM orders WHERE account = ? AND client_order_id = ?"
        row = self._finder.execute(query, (account, client_order_id)).fetchone()
        return None if row is None else int(row[0])

    def _last(self, table: str, column: str) -> int:
        return int(self._writer.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()[0])


_IDS = (("orders", "id"), ("trade", "id"), ("event", "id"), ("posting", "entry"))


def connect(path: Path) -> sqlite3.Connection:
    """Open the file so that what is committed survives a loss of power."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _lock(path: Path) -> IO[str]:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise LedgerBusyError(f"{path} is locked: another paper venue writes this ledger") from error
    return file
