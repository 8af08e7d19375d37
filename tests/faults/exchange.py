"""A small exchange as a process of its own: `python -m tests.faults.exchange --port N --file ledger.sqlite`.

One JSON object a line comes in, one goes out. An order is known by its idempotency key for ever; every request is
counted; what comes after its expiry, or with an expiry further away than an attempt can last, is refused; an order
that is cancelled before it comes is never taken. What was answered is on disk.
"""

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS orders (
    key TEXT PRIMARY KEY, state TEXT NOT NULL, fills_at REAL, ends TEXT NOT NULL, placed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS calls (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, attempt INTEGER);
CREATE TABLE IF NOT EXISTS reports (id INTEGER PRIMARY KEY, key TEXT NOT NULL, kind TEXT NOT NULL);
"""
LONGEST: Final = 4.0
"""Seconds that an attempt lasts at most: an expiry beyond that comes from a clock that is wrong."""
LATE: Final = 3.0
"""Seconds by which a late answer passes every time-out."""
TAKEN: Final = ("open", "filled", "lost", "cancelled")


class Exchange:
    """The ledger, and what is done with it; times are seconds since 1970."""

    def __init__(self, file: Path) -> None:
        self._sql = sqlite3.connect(file, isolation_level=None)
        self._sql.execute("PRAGMA journal_mode=WAL")
        self._sql.execute("PRAGMA synchronous=NORMAL")
        self._sql.executescript(SCHEMA)

    async def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        kind, key = asked["kind"], asked.get("key", "")
        if kind in {"place", "query", "cancel", "reports"}:
            self._sql.execute("INSERT INTO calls (kind, key, attempt) VALUES (?, ?, ?)", (kind, key, asked["attempt"]))
        match kind:
            case "place":
                return await self._place(asked)
            case "cancel":
                return {"state": self._cancel(key)}
            case "query":
                return {"state": self._state(key)}
            case "reports":
                self._state(key)
                return {"reports": self._rows("SELECT id, kind FROM reports WHERE key = ?", key)}
            case "feed":
                return {"reports": self._feed(asked["after"])}
            case _:
                return self._dump()

    async def _place(self, asked: dict[str, Any]) -> dict[str, Any]:
        key, mode, first = asked["key"], asked["mode"], asked["attempt"] == 1
        if mode == "slow" and first:
            await asyncio.sleep(LATE)
        left = asked["expires"] / 1e9 - time.time()
        if not 0 <= left <= LONGEST:
            return {"state": "expired"}
        state = self._state(key)
        if state is None:
            state = self._take(key, asked)
        if mode == "late" and first:
            await asyncio.sleep(LATE)
        return {"state": state}

    def _take(self, key: str, asked: dict[str, Any]) -> str:
        """Have the effect, once."""
        if asked["mode"] == "refuse":
            self._sql.execute("INSERT INTO orders VALUES (?, 'refused', NULL, '', 1)", (key,))
            return "refused"
        fills_at = time.time() + asked["delay"]
        self._sql.execute("INSERT INTO orders VALUES (?, 'open', ?, ?, 1)", (key, fills_at, asked["ends"]))
        return "open"

    def _cancel(self, key: str) -> str:
        """Close an order, or see to it that it never opens."""
        state = self._state(key)
        if state is None:
            self._sql.execute("INSERT INTO orders VALUES (?, 'cancelled', NULL, '', 0)", (key,))
            self._report(key, "cancelled")
        elif state == "open":
            self._end(key, "cancelled")
        return self._state(key) or ""

    def _state(self, key: str) -> str | None:
        found = self._rows("SELECT state, fills_at, ends FROM orders WHERE key = ?", key)
        if not found:
            return None
        state, fills_at, ends = found[0]
        if state == "open" and fills_at <= time.time():
            self._end(key, ends)
            return ends
        return state

    def _end(self, key: str, state: str) -> None:
        self._sql.execute("BEGIN")
        self._sql.execute("UPDATE orders SET state = ? WHERE key = ?", (state, key))
        self._report(key, state)
        self._sql.execute("COMMIT")

    def _report(self, key: str, kind: str) -> None:
        self._sql.execute("INSERT INTO reports (key, kind) VALUES (?, ?)", (key, kind))

    def _feed(self, after: int) -> list[Any]:
        """Give the reports after one, having closed what is due."""
        for (key,) in self._rows("SELECT key FROM orders WHERE state = 'open' AND fills_at <= ?", time.time()):
            self._state(key)
        return self._rows("SELECT id, key, kind FROM reports WHERE id > ? ORDER BY id LIMIT 500", after)

    def _dump(self) -> dict[str, Any]:
        return {
            "orders": self._rows("SELECT key, state, placed FROM orders"),
            "calls": self._rows("SELECT kind, key, attempt FROM calls"),
        }

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        return self._sql.execute(statement, values).fetchall()


async def ask(address: str, **asked: Any) -> dict[str, Any]:
    """Ask an exchange; raises `OSError` when it does not answer."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=256 * 1024 * 1024)
    try:
        writer.write(orjson.dumps(asked) + b"\n")
        await writer.drain()
        line = await reader.readline()
    finally:
        writer.close()
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the exchange has hung up")
    return orjson.loads(line)


async def serve(port: int, file: Path) -> None:
    """Serve until cancelled."""
    exchange = Exchange(file)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(orjson.dumps(await exchange.answer(orjson.loads(line))) + b"\n")
                await writer.drain()
        except OSError:
            return  # whoever asked has gone
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", port, reuse_port=True)  # the run keeps it for us
    async with server:
        await server.serve_forever()


def main(port: Annotated[int, typer.Option()], file: Annotated[Path, typer.Option()]) -> None:
    """Run the exchange in the foreground."""
    asyncio.run(serve(port, file))


if __name__ == "__main__":
    typer.run(main)
