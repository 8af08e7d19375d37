"""Counted effects of steps: local ones in the transaction of the batch, remote ones at an unreliable far side."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from tradesaga.consumers.context import StepContext
from tradesaga.consumers.testing.simulation.broker import EPOCH_NS
from tradesaga.consumers.testing.simulation.database import CommittedEffect, SimDatabase, Transaction
from tradesaga.consumers.testing.simulation.loop import SimLoop, current
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.errors import OutcomeUnknownError

EFFECT: Final = "INSERT INTO effect (saga_id, step, direction) VALUES ($1, $2, $3)"
BACK: Final = ":back"


async def take_effect(ctx: StepContext, sql: Connection | None = None) -> None:
    """Record the local effect of the step, or of its compensation. It counts once the transaction commits.

    Raises `RuntimeError` for a handler without a transaction.
    """
    sql = sql or ctx.sql
    if sql is None:
        raise RuntimeError(f"step {ctx.step!r} has no transaction: it is remote; use FarSide.place")
    await sql.execute(EFFECT, ctx.saga_id, ctx.step, "back" if ctx.key.endswith(BACK) else "forward")


async def insert_effect(tx: Transaction, saga_id: UUID, step: str, direction: str) -> str:
    """Run `EFFECT` on the simulated database."""
    tx.effects.append((saga_id, step, direction))
    return "INSERT 0 1"


class ExpiredError(Exception):
    """The far side has rejected a request that arrived after its expiry."""


@dataclass(slots=True)
class RemoteEffect:
    """An effect at the far side: `open`, `filled`, `cancelled` or `lost`, with its reports as (report id, state).

    One that `races` is filled at the moment at which it is to be cancelled.
    """

    saga_id: UUID
    step: str
    state: str = "open"
    races: bool = False
    reports: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


class FarSide:
    """A simulated bank or venue. Each key has its effect once; the connection is slow, or loses answers."""

    def __init__(self, loop: SimLoop, database: SimDatabase) -> None:
        self._loop = loop
        self._database = database
        self.effects: dict[str, RemoteEffect] = {}
        self.calls: Counter[str] = Counter()
        self.undone: set[str] = set()
        self.clock_offset = 0.0
        self.failures: list[str] = []
        """Failures of the next requests: `slow` arrives late, `lost` gets no answer, `unknown` loses the connection."""
        self.opened = False
        """Whether steps that the plan has as `shut` work again."""

    async def place(self, ctx: StepContext, then: Callable[[RemoteEffect], None] | None = None) -> None:
        """Execute the effect of a step, once per key; a new effect is passed to `then`.

        Raises `OutcomeUnknownError` if no answer comes, `ExpiredError` if the attempt has expired.
        """

        def arrive() -> None:
            if self._now_ns() > ctx.expires_ns:
                raise ExpiredError("the attempt has expired")
            if ctx.key not in self.effects:
                effect = self.effects[ctx.key] = RemoteEffect(ctx.saga_id, ctx.step)
                self._count(ctx, "forward")
                if then is not None:
                    then(effect)

        await self._ask(f"place {ctx.key}", arrive)

    async def find(self, key: str) -> RemoteEffect | None:
        """Return the effect of a key; None if the far side does not know the key, or not yet."""
        return await self._ask(f"find {key}", lambda: self.effects.get(key))

    async def undo(self, ctx: StepContext) -> None:
        """Compensate the effect of a step, once per key; an open one is cancelled."""

        def arrive() -> None:
            if ctx.key not in self.undone:
                self.undone.add(ctx.key)
                self._count(ctx, "back")
            self.close(ctx.key.removesuffix(BACK), "cancelled")

        await self._ask(f"undo {ctx.key}", arrive)

    async def cancel(self, key: str) -> Sequence[tuple[str, str]]:
        """Cancel the effect of a key if it is open, and return its reports as (report id, state)."""
        return await self._ask(f"cancel {key}", lambda: self.close(key, "cancelled"))

    async def reports(self, key: str) -> Sequence[tuple[str, str]]:
        """Return the reports of a key as (report id, state)."""
        return await self._ask(f"reports {key}", lambda: self._reports(self.effects.get(key)))

    def later(self, function: Callable[[], Any]) -> None:
        """Schedule an event at the far side after a short delay."""
        self._loop.after(0.01 + 2.5 * self._loop.chance.random() ** 4, function)

    def close(self, key: str, state: str) -> Sequence[tuple[str, str]]:
        """End the effect of a key if it is open, and return its reports. An unknown key counts as cancelled."""
        effect = self.effects.get(key)
        if effect is None:
            return [(f"{key}/none", "cancelled")]
        if effect.state == "open":
            effect.state = "filled" if effect.races and state == "cancelled" else state
            effect.reports.append((f"{key}/{effect.state}", effect.state))
        return self._reports(effect)

    def _reports(self, effect: RemoteEffect | None) -> Sequence[tuple[str, str]]:
        return tuple(effect.reports) if effect is not None else ()

    def _count(self, ctx: StepContext, direction: str) -> None:
        self._database.effects.append(CommittedEffect((ctx.saga_id, ctx.step, direction), {}))

    def _now_ns(self) -> int:
        return EPOCH_NS + int((self._loop.time() + self.clock_offset) * 1e9)

    async def _ask(self, what: str, function: Callable[[], Any]) -> Any:
        current().check()
        loop = self._loop
        failure = self.failures.pop(0) if self.failures else ""
        self.calls[what] += 1
        future = loop.create_future()
        draw = loop.chance.random
        there, back = 0.001 + 0.05 * draw() ** 4, 0.001 + 0.05 * draw() ** 4
        if failure in {"slow", "unknown"}:
            there = 0.05 + 1.2 * draw()
        answers = failure not in {"lost", "unknown"}
        loop.after(there, self._arrive, function, future, back if answers else None)
        if failure == "unknown":
            await asyncio.sleep(there * draw())
            raise OutcomeUnknownError("the connection to the far side broke")
        return await future

    def _arrive(self, function: Callable[[], Any], future: "asyncio.Future[Any]", back: float | None) -> None:
        result, error = None, None
        try:
            result = function()
        except ExpiredError as expired:
            error = expired
        if back is not None:
            self._loop.after(back, _answer, future, result, error)


def _answer(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
