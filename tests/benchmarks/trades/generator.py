"""Start trades over HTTP, each when it is due, in a process of its own so that its CPU is counted apart.

`python -m tests.benchmarks.trades.generator URL RUN TRADES RATE FILE`: at a rate of 0 all trades are due at once.
The file gets one list per trade: its saga, when it was due, when the answer had arrived, and the status (0: no answer).
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import NamedTuple

import aiohttp
import orjson
import uvloop

from tests.benchmarks.trades.plan import ACCOUNTS
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.identity import saga_id

CONNECTIONS = 1_000
"""Connections at most; further requests wait for one, and their latency counts from when they were due."""
PATIENCE = 60.0
ORDER = {"symbol": "EUR/USD", "side": "BUY", "quantity": "20", "order_type": "MARKET", "time_in_force": "IOC"}


class Request(NamedTuple):
    """One request and its answer; times in seconds since 1970."""

    saga: str
    due: float
    answered: float
    status: int


def _order(run: str, index: int) -> dict[str, str]:
    return {**ORDER, "account": ACCOUNTS[index % len(ACCOUNTS)], "idempotency_key": f"{run}-{index}"}


async def _start(session: aiohttp.ClientSession, order: dict[str, str], due: float) -> Request:
    headers = {"Content-Type": "application/json"}
    try:
        async with session.post("/v1/trades", data=orjson.dumps(order), headers=headers) as answer:
            await answer.read()
            status = answer.status
    except (aiohttp.ClientError, TimeoutError):
        status = 0
    saga = str(saga_id(trade.name, order["account"], order["idempotency_key"]))
    return Request(saga, due, time.time(), status)


async def generate(url: str, run: str, trades: int, rate: float) -> list[Request]:
    """Start the trades, and return when all have been answered."""
    connector, timeout = aiohttp.TCPConnector(limit=CONNECTIONS), aiohttp.ClientTimeout(PATIENCE)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        began, requests = time.time(), list[asyncio.Task[Request]]()
        for index in range(trades):
            due = began + index / rate if rate else began
            if (ahead := due - time.time()) > 0:
                await asyncio.sleep(ahead)
            requests.append(asyncio.create_task(_start(session, _order(run, index), due)))
        return await asyncio.gather(*requests)


def read(file: Path) -> list[Request]:
    """Read the file that a run has written."""
    return [Request(*each) for each in orjson.loads(file.read_bytes())]


if __name__ == "__main__":
    _, address, name, count, pace, target = sys.argv
    requests = uvloop.run(generate(address, name, int(count), float(pace)))
    Path(target).write_bytes(orjson.dumps([tuple(request) for request in requests]))
