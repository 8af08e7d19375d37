"""The same scripts on simulated and on real ports."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import asyncpg

from tradesaga.consumers.testing.simulation.broker import SimBroker
from tradesaga.consumers.testing.simulation.clients import SimClients
from tradesaga.consumers.testing.simulation.connection import SimConnection
from tradesaga.consumers.testing.simulation.database import SimDatabase
from tradesaga.consumers.testing.simulation.lane_statements import lane_statements
from tradesaga.consumers.testing.simulation.loop import SimLoop
from tradesaga.consumers.testing.simulation.row_statements import row_statements
from tradesaga.consumers.testing.simulation.saga_statements import saga_statements
from tradesaga.infra.outbox.ports import Brokers
from tradesaga.infra.postgres.database import SESSION, Connection

T = TypeVar("T")
PARTITIONS = 2


@dataclass(frozen=True)
class Sessions:
    """Two sessions on one database, and a way to break the first."""

    one: Connection
    two: Connection
    cut: Callable[[], Awaitable[None]]


def simulate(script: Callable[[Any], Awaitable[T]], make: Callable[[SimLoop], Any], seed: int = 1) -> T:
    """Run a script in a simulated process."""
    loop = SimLoop(seed)
    process = loop.spawn("script")

    async def inside() -> T:
        return await script(make(loop))

    async def main() -> T:
        return await process.run(lambda: loop.create_task(inside()))

    return loop.run(main())


def sim_sessions(loop: SimLoop) -> Sessions:
    """Give two simulated sessions."""
    statements = {**lane_statements(), **row_statements(), **saga_statements()}
    database = SimDatabase(loop, statements)
    one, two = (SimConnection(database, loop.spawn(name)) for name in ("one", "two"))

    async def cut() -> None:
        one.end()

    return Sessions(cast("Connection", one), cast("Connection", two), cut)


@asynccontextmanager
async def real_sessions(url: str) -> AsyncGenerator[Sessions]:
    """Give two sessions of PostgreSQL, as the product opens them."""
    async with AsyncExitStack() as stack:
        sessions: list[Any] = []
        for _ in range(3):
            session = await asyncpg.connect(url, server_settings=SESSION)
            stack.push_async_callback(session.close, timeout=5)
            sessions.append(session)
        one, two, third = sessions

        async def cut() -> None:
            await third.fetchval("SELECT pg_terminate_backend($1)", one.get_server_pid())
            await asyncio.sleep(0.2)

        yield Sessions(one, two, cut)


def sim_brokers(loop: SimLoop) -> Brokers:
    """Give clients of a simulated broker."""
    return SimClients(SimBroker(loop, PARTITIONS), loop.spawn("clients"))
