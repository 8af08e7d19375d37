"""The good trades of a fuzz run: a steady pace by HTTP and by Kafka, each remembered with what its client was told."""

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any, Final

import httpx
import orjson
from confluent_kafka import Producer

from tradesaga.infra.ledger.accounts import NewAccount, book_payment, create_account
from tradesaga.infra.postgres.database import session
from tradesaga.schemas import identity
from tradesaga.schemas.amounts import format_decimal

ACCOUNTS: Final = ("good-1", "good-2", "good-3")
PAID_IN: Final = {"USD": Decimal(20_000_000), "EUR": Decimal(5_000_000)}
_AGAIN: Final = {429, 503}
_PATIENCE: Final = 60.0
"""Seconds that a client goes on sending a request for which there is no room."""


@dataclass
class Trade:
    """A request, and what its client knows of it; `seconds` is how long it waited for its answer."""

    saga_id: str
    door: str
    request: dict[str, str]
    accepted: bool = False
    told: str = ""
    seconds: float = 0.0


async def open_accounts(database_url: str) -> dict[str, dict[str, str]]:
    """Open and fund the accounts; return what each has, by asset."""
    async with session(database_url) as sql:
        for account in ACCOUNTS:
            await create_account(sql, NewAccount(account, max_exposure=Decimal(10**8), max_open_orders=10_000))
            for asset, amount in PAID_IN.items():
                await book_payment(sql, account, asset, amount, f"fuzz {asset}")
    return {account: {asset: format_decimal(amount) for asset, amount in PAID_IN.items()} for account in ACCOUNTS}


@dataclass
class Traders:
    """Start `rate` trades a minute until told to stop."""

    kafka: str
    http: str
    chance: Random
    rate: float
    trades: list[Trade] = field(default_factory=list[Trade])
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set["asyncio.Task[None]"])
    _producer: Producer = field(init=False)

    def __post_init__(self) -> None:
        self._producer = Producer({"bootstrap.servers": self.kafka, "enable.idempotence": True, "log_level": 0})

    async def run(self) -> None:
        """Start trades for ever."""
        async with httpx.AsyncClient(timeout=30.0) as client:
            while True:
                trade = self._think()
                self.trades.append(trade)
                work = self._by_http(client, trade) if trade.door == "http" else self._by_kafka(trade)
                task = asyncio.create_task(work, name=f"trade {trade.saga_id}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                self._producer.poll(0)
                await asyncio.sleep(60.0 / self.rate)

    async def finish(self) -> None:
        """Wait for the answers that are due."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_PATIENCE)
        await asyncio.to_thread(self._producer.flush, 20)

    def _think(self) -> Trade:
        chance = self.chance
        account, key = chance.choice(ACCOUNTS), f"good-{chance.getrandbits(80):020x}"
        request = {
            "idempotency_key": key, "account": account, "symbol": "EUR/USD", "side": chance.choice(("BUY", "SELL")),
            "quantity": str(chance.randint(1, 20) * 100), "order_type": "MARKET", "time_in_force": "IOC",
        }  # fmt: skip
        return Trade(str(identity.saga_id("trade", account, key)), chance.choice(("http", "kafka")), request)

    async def _by_http(self, client: httpx.AsyncClient, trade: Trade) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not trade.accepted and loop.time() - began < _PATIENCE:
            try:
                answer = await client.post(f"{self.http}/v1/trades", json=trade.request)
                trade.told, trade.accepted = str(answer.status_code), answer.status_code in {200, 202}
                if not trade.accepted and answer.status_code not in _AGAIN:
                    break
            except httpx.TransportError as error:
                trade.told = type(error).__name__
            if not trade.accepted:
                await asyncio.sleep(0.5)
        trade.seconds = loop.time() - began

    async def _by_kafka(self, trade: Trade) -> None:
        loop = asyncio.get_running_loop()
        began, done = loop.time(), asyncio.Event()

        def delivered(error: Any, _: Any) -> None:
            trade.told, trade.accepted = str(error or "delivered"), error is None
            loop.call_soon_threadsafe(done.set)

        value = orjson.dumps(trade.request)
        self._producer.produce("trade.starts", key=trade.request["account"], value=value, on_delivery=delivered)
        async with asyncio.timeout(_PATIENCE):
            while not done.is_set():
                self._producer.poll(0)
                await asyncio.sleep(0.05)
        trade.seconds = loop.time() - began
