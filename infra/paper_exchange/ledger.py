"""Ledger of the paper venue: one SQLite file. Changes are written in batches and are durable before they are answered.

A batch takes the same few statements whatever its size: the rows of each table are passed as one JSON array.
"""

import asyncio
import fcntl
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from sqlite3 import Error as SqliteError
from typing import IO

from tradesaga.infra.paper_exchange.exchange import State
from tradesaga.infra.paper_exchange.records import (
    INSERTS,
    SCHEMA,
    Account,
    Change,
    Holding,
    Position,
    encode_rows,
    read_row,
    to_order,
    to_records,
)


class LedgerBusyError(Exception):
    """Another process has the ledger open."""


class Ledger:
    """The ledger's file. After the start, only one thread may call `write`, and only the exchange's thread `find`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = _lock(path.with_name(path.name + ".lock"))
        self._writer = connect(path)
        self._writer.executescript(SCHEMA)
        self._finder = connect(path)

    def close(self) -> None:
        """Close the file and release its lock."""
        self._finder.close()
        self._writer.close()
        self._lock.close()

    def write(self, changes: Sequence[Change]) -> None:
        """Write all changes in one transaction, durable on return."""
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            for table, records in to_records(changes).items():
                if records:
                    self._writer.execute(INSERTS[table], (encode_rows(records),))
            self._writer.execute("COMMIT")
        except BaseException:
            self._writer.execute("ROLLBACK")
            raise

    def load_state(self) -> State:
        """Read the exchange's state."""
        holdings = {
            (row.pop("account"), row.pop("asset")): Holding(**row)
            for row in map(read_row, self._writer.execute("SELECT * FROM holding"))
        }
        query = "SELECT * FROM orders WHERE status IN ('NEW', 'PARTIALLY_FILLED') ORDER BY id"
        resting = {order.id: order for order in map(to_order, self._writer.execute(query))}
        positions = {
            row.pop("symbol"): Position(**row) for row in map(read_row, self._writer.execute("SELECT * FROM market"))
        }
        ids = [self._last(table, column) for table, column in _IDS]
        return State(holdings, resting, positions, *ids)

    def last_time(self) -> int:
        """Return the latest time written; the venue's clock must not fall below it."""
        return self._last("event", "time")

    def accounts(self) -> list[Account]:
        """Return all accounts."""
        return [Account(**row) for row in self._writer.execute("SELECT * FROM account")]

    def setting(self, name: str, value: str) -> str:
        """Return a setting; if it is not set, set it to `value`."""
        self._writer.execute("INSERT INTO setting VALUES (?, ?) ON CONFLICT DO NOTHING", (name, value))
        return str(self._writer.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()[0])

    def find(self, account: str, client_order_id: str) -> int | None:
        """Return the id of the order with this client order id, in any state."""
        query = "SELECT id FROM orders WHERE account = ? AND client_order_id = ?"
        row = self._finder.execute(query, (account, client_order_id)).fetchone()
        return None if row is None else int(row[0])

    def _last(self, table: str, column: str) -> int:
        return int(self._writer.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()[0])


_IDS = (("orders", "id"), ("trade", "id"), ("event", "id"), ("posting", "entry"))


def connect(path: Path) -> sqlite3.Connection:
    """Open the file so that commits survive a loss of power."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
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


class JournalBrokenError(Exception):
    """The ledger cannot be written. State is ahead of the file, so the process has to restart."""


class Journal:
    """Writes changes in order; `publish` is called with each batch once it is durable."""

    def __init__(self, ledger: Ledger, publish: Callable[[Sequence[Change]], None]) -> None:
        self._ledger = ledger
        self._publish = publish
        self._waiting: list[Change] = []
        self._written: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._work = asyncio.Event()
        self._stopping = False
        self.broken: str | None = None
        self.commits = 0
        self.changes = 0

    def append(self, change: Change) -> asyncio.Future[None]:
        """Queue a change; the future completes once it and all earlier changes are durable."""
        if self.broken is not None:
            raise JournalBrokenError(self.broken)
        self._waiting.append(change)
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        self._work.set()
        return self._written

    async def settled(self) -> None:
        """Wait until all changes appended so far are durable."""
        if self.broken is not None:
            raise JournalBrokenError(self.broken)
        last = self._written or self._writing
        if last is not None:
            await asyncio.shield(last)

    def stop(self) -> None:
        """Make `run` return once nothing is left to write."""
        self._stopping = True
        self._work.set()

    async def run(self) -> None:
        """Write until stopped; raise if the ledger can no longer be written."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "ledger") as thread:
            while await self._more():
                changes, self._waiting = self._waiting, []
                written, self._written = self._written, None
                self._writing = written
                try:
                    await loop.run_in_executor(thread, self._ledger.write, changes)
                except (SqliteError, OSError) as error:
                    self._break(str(error), written)
                    raise JournalBrokenError(str(error)) from error
                self.commits += 1
                self.changes += len(changes)
                self._publish(changes)
                if written is not None:
                    written.set_result(None)
                self._writing = None

    async def _more(self) -> bool:
        while not self._waiting:
            if self._stopping:
                return False
            self._work.clear()
            await self._work.wait()
        return True

    def _break(self, why: str, *written: asyncio.Future[None] | None) -> None:
        self.broken = why
        for future in (*written, self._written):
            if future is not None:
                future.set_exception(JournalBrokenError(why))
                future.exception()
