"""A running paper venue: exchange, ledger, faults and streams. Requests are answered once their effects are durable."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

from tradesaga.infra.paper_exchange.book import read_prices
from tradesaga.infra.paper_exchange.errors import ApiError, Error
from tradesaga.infra.paper_exchange.exchange import Exchange
from tradesaga.infra.paper_exchange.faults import Effects, FaultPlan
from tradesaga.infra.paper_exchange.history import History
from tradesaga.infra.paper_exchange.ledger import Journal, Ledger
from tradesaga.infra.paper_exchange.parameters import Caller
from tradesaga.infra.paper_exchange.records import Account, Change, Order, Status, Ticket, Trade
from tradesaga.infra.paper_exchange.settings import INTERVALS, AccountSettings, PaperSettings
from tradesaga.infra.paper_exchange.streams import Streams


class Clock:
    """A clock in nanoseconds since 1970 UTC that starts at `floor` or later and never goes back."""

    def __init__(self, floor: int = 0) -> None:
        self._last = floor

    def now(self) -> int:
        """Return the time."""
        self._last = max(self._last, time.time_ns())
        return self._last


T = TypeVar("T")


class Venue:
    """The venue behind its APIs. The exchange runs in the event loop, the ledger's file in threads."""

    def __init__(self, settings: PaperSettings, path: Path) -> None:
        self.settings = settings
        prices = {one.symbol: read_prices(one.tape, INTERVALS[one.interval], one.tick) for one in settings.listings}
        self.ledger = Ledger(path)
        self.history = History(path)
        self.clock = Clock(self.ledger.last_time())
        self.exchange = Exchange(settings.listings, prices, settings.fees, self.ledger.load_state())
        self.streams = Streams()
        self.journal = Journal(self.ledger, self.streams.publish)
        self.faults = FaultPlan(settings.faults)
        self.accounts = {account.key: account for account in self.ledger.accounts()}
        self.speed = settings.speed
        self.paced = asyncio.Event()
        self._unwritten: set[tuple[str, str]] = set()
        self._busted: set[int] = set()
        self._reading = ThreadPoolExecutor(1, "history")

    def close(self) -> None:
        """Close the ledger."""
        self._reading.shutdown()
        self.history.close()
        self.ledger.close()

    async def open_account(self, wanted: AccountSettings) -> bool:
        """Open an account; return False if it exists already with the same key and secret."""
        account = Account(wanted.name, wanted.key, wanted.secret)
        for known in self.accounts.values():
            if known == account:
                return False
            if known.name == account.name or known.key == account.key:
                raise ApiError(Error.ACCOUNT_TAKEN, account.name)
        self.accounts[account.key] = account
        await self._commit(self.exchange.open_account(account, wanted.balances, self.clock.now()))
        return True

    async def place(self, caller: Caller, ticket: Ticket, effects: Effects) -> tuple[Order, Sequence[Trade]]:
        """Place an order, unless the request has expired or its client order id was used before."""
        now = self.clock.now()
        caller.check(now)
        name = (ticket.account, ticket.client_order_id)
        if name in self._unwritten or self.ledger.find(*name) is not None:
            await self.journal.settled()
            raise ApiError(Error.DUPLICATE_ORDER)
        change = self.exchange.place(ticket, now, effects.ratio, effects.reject)
        self._unwritten.add(name)
        written = self.journal.append(change)
        written.add_done_callback(lambda _: self._unwritten.discard(name))
        await asyncio.shield(written)
        order = change.events[-1].order
        if order.status is Status.REJECTED:
            raise ApiError(Error.REJECTED, order.reason, code=order.code)
        return order, change.trades

    async def cancel(self, caller: Caller, symbol: str, order_id: int | None, client_order_id: str | None) -> Order:
        """Cancel a resting order."""
        await self.journal.settled()
        now = self.clock.now()
        caller.check(now)
        if order_id is None and client_order_id is not None:
            order_id = self.ledger.find(caller.account.name, client_order_id)
        order = None if order_id is None else self.exchange.resting(order_id)
        if order is None or (order.ticket.account, order.ticket.symbol) != (caller.account.name, symbol):
            raise ApiError(Error.UNKNOWN_ORDER)
        change = self.exchange.cancel(order.id, now)
        await self._commit(change)
        return change.orders[order.id]

    async def step(self, symbol: str) -> None:
        """Close the next bar of a market."""
        await self._commit(self.exchange.step(symbol, self.clock.now()))

    async def bust(self, trade_id: int) -> Trade:
        """Bust a trade."""
        trade = await self.read(lambda: self.history.trade(trade_id))
        order = None if trade is None else await self.read(lambda: self.history.order(trade.order_id))
        if trade is None or order is None:
            raise ApiError(Error.NO_TRADE)
        if await self.read(lambda: self.history.busted(trade_id)) or trade_id in self._busted:
            raise ApiError(Error.ALREADY_BUSTED)
        self._busted.add(trade_id)
        change = self.exchange.bust(trade, order, self.clock.now())
        await self._commit(change)
        return change.trades[0]

    async def deposit(self, account: str, asset: str, amount: Decimal) -> None:
        """Deposit an amount to an account."""
        if all(known.name != account for known in self.accounts.values()):
            raise ApiError(Error.UNKNOWN_ACCOUNT)
        await self._commit(self.exchange.deposit(account, asset, amount, self.clock.now()))

    async def read(self, query: Callable[[], T]) -> T:
        """Query the ledger, once all changes so far are in it."""
        await self.journal.settled()
        return await asyncio.get_running_loop().run_in_executor(self._reading, query)

    async def run_market(self) -> None:
        """Close bars at the set speed; bars that are late are not made up for."""
        while True:
            self.paced.clear()
            pause = 1 / self.speed if self.speed else None
            try:
                async with asyncio.timeout(pause):
                    await self.paced.wait()
            except TimeoutError:
                for symbol in self.exchange.listings:
                    await self.step(symbol)

    def set_speed(self, speed: float) -> None:
        """Set the market's speed in bars per second; 0 stops the market."""
        self.speed = speed
        self.paced.set()

    async def _commit(self, change: Change) -> None:
        await asyncio.shield(self.journal.append(change))
