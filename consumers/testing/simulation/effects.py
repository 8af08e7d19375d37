"""Effects that can be counted: local ones in the batch's transaction, remote ones at a far side that answers badly."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from tradesaga.consumers.context import StepContext
from tradesaga.consumers.testing.simulation.broker import EPOCH_NS
from tradesaga.consumers.testing.simulation.database import SimDatabase, Transaction
from tradesaga.consumers.testing.simulation.loop import ProcessGoneError, SimLoop, current
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.errors import OutcomeUnknownError

EFFECT: Final = "INSERT INTO effect (saga_id, step, direction) VALUES ($1, $2, $3)"
BACK: Final = ":back"


async def take_effect(ctx: StepContext, sql: Connection | None = None) -> None:
    """Record the step's local effect, or that of its compensation; it counts if the transaction commits.

    Raises `RuntimeError` for a handler without a transaction.
    """
    found = sql if sql is not None else ctx.sql
    if found is None:
        raise RuntimeError(f"step {ctx.step!r} has no transaction: it is remote; use FarSide.place")
    await found.execute(EFFECT, ctx.saga_id, ctx.step, "back" if ctx.key.endswith(BACK) else "forward")


async def insert_effect(tx: Transaction, saga_id: UUID, step: str, direction: str) -> str:
    """Do what `EFFECT` does."""
    tx.effects.append((saga_id, step, direction))
    return "INSERT 0 1"


class ExpiredError(Exception):
    """The far side has refused a request that came after its expiry."""


@dataclass(slots=True)
class Order:
    """What the far side holds under one key: `open`, `filled`, `cancelled` or `lost`; reports by their ids.

    One that `races` is filled at the very moment at which it is to be cancelled.
    """

    saga_id: UUID
    step: str
    state: str = "open"
    races: bool = False
    reports: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


class FarSide:
    """A bank or a venue: each key has its effect once, whatever is sent; the line to it is slow, or loses answers."""

    def __init__(self, loop: SimLoop, database: SimDatabase) -> None:
        self._loop = loop
        self._database = database
        self.orders: dict[str, Order] = {}
        self.calls: Counter[str] = Counter()
        self.undone: set[str] = set()
        self.clock_offset = 0.0
        self.words: list[str] = []
        """How the next requests fare: `slow` ones arrive late; to a `lost` one nobody answers, `unknown` breaks off."""
        self.opened = False
        """Return whether what is `shut` for a while works again."""

    async def place(self, ctx: StepContext, then: Callable[[Order], None] | None = None) -> None:
        """Execute the effect of a step, once per key; `then` is called if it is new.

        Raises `OutcomeUnknownError` when no answer comes, `ExpiredError` when the attempt is void by now.
        """

        def arrive() -> None:
            if self._now_ns() > ctx.expires_ns:
                raise ExpiredError("the attempt is void")
            if ctx.key not in self.orders:
                order = self.orders[ctx.key] = Order(ctx.saga_id, ctx.step)
                self._database.remember((ctx.saga_id, ctx.step, "forward"), {})
                if then is not None:
                    then(order)

        await self._ask(f"place {ctx.key}", arrive)

    async def find(self, key: str) -> Order | None:
        """Return the effect under a key; None if it is not known, or not yet."""
        return await self._ask(f"find {key}", lambda: self.orders.get(key))

    async def undo(self, ctx: StepContext) -> None:
        """Undo the effect of a step, once per key; an open one is cancelled."""

        def arrive() -> None:
            key = ctx.key.removesuffix(BACK)
            if ctx.key not in self.undone:
                self.undone.add(ctx.key)
                self._database.remember((ctx.saga_id, ctx.step, "back"), {})
            self.close(key, "cancelled")

        await self._ask(f"undo {ctx.key}", arrive)

    async def cancel(self, key: str) -> Sequence[tuple[str, str]]:
        """Close what is open under a key and give all that has been reported of it."""
        return await self._ask(f"cancel {key}", lambda: self.close(key, "cancelled"))

    async def reports(self, key: str) -> Sequence[tuple[str, str]]:
        """Return all that has been reported under a key: (report id, state)."""
        return await self._ask(f"reports {key}", lambda: self._reports(key))

    def later(self, function: Callable[[], Any]) -> None:
        """Schedule an event at the far side for a little later."""
        delay = 0.01 + 2.5 * self._loop.chance.random() ** 4
        self._loop.outside.run(self._loop.call_later, delay, function)

    def close(self, key: str, state: str) -> Sequence[tuple[str, str]]:
        """Bring an order to an end, unless it has come to one; what was never placed stays unknown."""
        order = self.orders.get(key)
        if order is None:
            return [(f"{key}/none", "cancelled")]
        if order.state == "open":
            order.state = "filled" if order.races and state == "cancelled" else state
            order.reports.append((f"{key}/{order.state}", order.state))
        return tuple(order.reports)

    def _reports(self, key: str) -> Sequence[tuple[str, str]]:
        order = self.orders.get(key)
        return tuple(order.reports) if order is not None else ()

    def _now_ns(self) -> int:
        return EPOCH_NS + int((self._loop.time() + self.clock_offset) * 1e9)

    async def _ask(self, what: str, function: Callable[[], Any]) -> Any:
        process, loop = current(), self._loop
        if process.dead:
            raise ProcessGoneError
        word = self.words.pop(0) if self.words else ""
        self.calls[what] += 1
        future = loop.create_future()
        draw = loop.chance.random
        there, back = 0.001 + 0.05 * draw() ** 4, 0.001 + 0.05 * draw() ** 4
        if word in {"slow", "unknown"}:
            there = 0.05 + 1.2 * draw()
        answers = word not in {"lost", "unknown"}
        loop.outside.run(loop.call_later, there, self._arrive, function, future, back if answers else None)
        if word == "unknown":
            await asyncio.sleep(there * draw())
            raise OutcomeUnknownError("the line went dead")
        return await future

    def _arrive(self, function: Callable[[], Any], future: "asyncio.Future[Any]", back: float | None) -> None:
        result, error = None, None
        try:
            result = function()
        except ExpiredError as expired:
            error = expired
        if back is not None:
            self._loop.outside.run(self._loop.call_later, back, _answer, future, result, error)


def _answer(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
