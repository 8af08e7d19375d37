"""Time limits and savepoints: what is called failed has left nothing behind."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast
from uuid import uuid4

import pytest

from tests.sagas import Held, OrderAsked, small_saga
from tradesaga.consumers.context import StepContext, Work
from tradesaga.consumers.participant import Binding, Participant
from tradesaga.consumers.runtime.event_factory import Answered, Trigger
from tradesaga.consumers.runtime.local_handlers import Budget, Item, LoopWatch, run_local
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import Envelope

pytestmark = pytest.mark.stack


class Slow:
    """A connection to a busy server: what ends a savepoint is done at once, and answered late."""

    def __init__(self, sql: Connection, seconds: float) -> None:
        self._sql = sql
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sql, name)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        """Open a savepoint."""
        async with self._sql.transaction():
            yield
        await asyncio.sleep(self._seconds)


@pytest.mark.parametrize("together", [False, True])
async def test_a_savepoint_whose_release_is_slow_is_kept_and_answered(database_url: str, together: bool) -> None:
    """The handler was in time, only the server's last answer was not: its effect stands once, and is answered for."""
    saga = small_saga()
    step = saga.steps[0]
    participant = Participant("desk", saga)

    async def one(event: OrderAsked, ctx: StepContext) -> Held:
        assert ctx.sql is not None
        await ctx.sql.execute("INSERT INTO done VALUES ($1)", ctx.saga_id)
        return Held()

    async def many(works: list[Work[OrderAsked]], sql: Connection) -> list[Held]:
        return [await one(work.event, work.ctx) for work in works]

    participant.handles_batch(step)(cast("Any", many)) if together else participant.handles(step)(one)
    async with session(database_url) as sql:
        await sql.execute("CREATE TABLE done (saga_id uuid)")
        binding = participant.bindings[step.name]
        binding.step = replace(step, timeout=timedelta(seconds=0.3))
        slow = cast("Connection", Slow(sql, 0.6))
        async with sql.transaction():
            (outcome,) = await run_local(binding, [_item(binding, slow)], slow, Budget(), LoopWatch())
        assert isinstance(outcome, Answered)
        assert await sql.fetchval("SELECT count(*) FROM done") == 1


def _item(binding: Binding, sql: Connection) -> Item:
    saga_id = uuid4()
    envelope = Envelope("small.order-asked.v1", str(uuid4()), "/test", str(saga_id), "2026-01-01T00:00:00Z")
    trigger = Trigger(envelope, OrderAsked(idempotency_key="k", account="a").to_wire(), OrderAsked)
    ctx = StepContext(saga_id, "hold", 1, f"{saga_id}:hold", 0, sql=sql)
    return Item(binding, Row(saga_id, "hold", 1, RowStatus.INTENT), trigger, 1, ctx)
