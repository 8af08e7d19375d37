"""A bench whose far side survives: the product's database is another one, and may be lost."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import asyncpg
from aiokafka.errors import KafkaError
from pydantic import SecretStr

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.far import TABLES
from tests.e2e.harness import PATIENCE, Bench, open_bench
from tests.e2e.sagas import Kit
from tests.e2e.steps import BUSY
from tests.keys import KEYS
from tests.waiting import until
from tradesaga.consumers.context import Work
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.participant import Participant
from tradesaga.consumers.recovery.rebuild import RebuildRequest, rebuild
from tradesaga.consumers.recovery.refusals import Report
from tradesaga.infra.kafka.connections import KafkaUnavailableError
from tradesaga.infra.postgres.database import Connection, Pool, open_pool
from tradesaga.infra.registry.sagas import RegisteredSaga
from tradesaga.infra.settings import Settings
from tradesaga.schemas.identity import saga_id as identify
from tradesaga.schemas.messages.message import Event
from tradesaga.schemas.topics import starts_topic


async def execute(url: str, statement: str) -> None:
    """Run one statement on a connection of its own."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def bind_restores(kit: Kit) -> None:
    """Have the desk's effects made anew from its facts, under every version of the saga."""

    def again(step: str, direction: str) -> object:
        async def restore(works: Sequence[Work[Event]], sql: Connection) -> None:
            await sql.executemany(
                "INSERT INTO effect (saga_id, step, direction, attempt) VALUES ($1, $2, $3, $4)",
                [(work.saga_id, step, direction, work.ctx.attempt) for work in works],
            )

        return restore

    for version in kit.saga.versions:
        for name, binding in kit.desk.under(version).items():
            binding.restore = again(name, "forward")  # pyright: ignore[reportAttributeAccessIssue]
            if binding.step.back is not None:
                binding.restore_back = again(name, "back")  # pyright: ignore[reportAttributeAccessIssue]


@dataclass
class Stage:
    """The bench, and the databases that the product has had on it; the last is the one in use."""

    bench: Bench
    stack: Stack
    far_pool: Pool
    url: str = ""
    databases: list[str] = field(default_factory=list[str])
    asked: dict[str, UUID] = field(default_factory=dict[str, UUID])

    @property
    def settings(self) -> Settings:
        """Give the settings that services would have."""
        return Settings(database_url=SecretStr(self.url), kafka=self.bench.kafka)

    @property
    def sagas(self) -> list[RegisteredSaga[Participant]]:
        """Give the saga and its participants."""
        kit = self.bench.kit
        return [RegisteredSaga(kit.saga, [kit.desk, kit.port])]

    async def new_database(self, template: str = "") -> str:
        """Make a migrated database, or a copy of another, and use it from here on."""
        name = f"test_{uuid4().hex[:16]}"
        await execute(self.stack.database_url, f"CREATE DATABASE {name} TEMPLATE {template or self.stack.template}")
        url = f"{self.stack.database_url.rsplit('/', 1)[0]}/{name}"
        self.databases.append(url)
        if not template:
            await execute(url, TABLES)
        await self.use(url)
        return url

    async def use(self, url: str) -> None:
        """Use this database from here on; what is connected to the one in use before is cut off."""
        self.hang_up()
        self.url = url
        self.bench.pool = await open_pool(url, min_size=1, max_size=12)

    def hang_up(self) -> None:
        """Cut the test's own connections to the database in use."""
        if self.bench.pool is not self.far_pool:
            self.bench.pool.terminate()

    async def lose_database(self) -> None:
        """Drop the database in use, whatever is connected to it."""
        name = self.url.rsplit("/", 1)[1]
        await execute(self.stack.database_url, f"DROP DATABASE {name} WITH (FORCE)")

    async def serve(self) -> None:
        """Run everything, the intake too."""
        await self.bench.serve_all()
        await self.bench.run(Intake(self.bench.saga, KEYS)).ready()

    async def stop(self) -> None:
        """End all services."""
        await self.bench.stop()

    async def deploy(self, kit: Kit) -> None:
        """Stop all services, and run everything as another release has it."""
        await self.stop()
        bind_restores(kit)
        self.bench.kit = kit
        await self.serve()

    async def knock(self, key: str, **plan: str) -> UUID:
        """Ask for a saga at the front door."""
        value = m.Asked(idempotency_key=key, plan=plan).to_wire()
        await (await self.bench.producer.send(starts_topic(self.bench.saga.name), key.encode(), value, []))
        self.asked[key] = identify(self.bench.saga.name, "alice", key)
        return self.asked[key]

    async def reached(self, ended: int) -> None:
        """Wait until so many sagas have ended, and others have not."""
        await self.counted("SELECT count(*) FROM saga WHERE state IN ('COMPLETED', 'ABORTED')", ended)

    async def ran_ahead(self) -> None:
        """Wait until steps have answered in a saga of which the saga log knows nothing."""
        await self.counted("SELECT count(*) FROM step_execution WHERE saga_id NOT IN (SELECT saga_id FROM saga)", 1)

    async def counted(self, count: str, least: int) -> None:
        """Wait until a query has counted so many."""

        async def there() -> bool:
            return await self.bench.pool.fetchval(count) >= least

        await until(there, PATIENCE)

    async def forget_unknown(self) -> None:
        """Forget the sagas whose start was lost before anybody had taken it in."""
        found = {row["saga_id"] for row in await self.bench.pool.fetch("SELECT saga_id FROM start_request")}
        self.asked = {key: saga_id for key, saga_id in self.asked.items() if saga_id in found}

    async def far_taken(self, saga_id: UUID) -> int:
        """Count how often the far side took the saga's order."""
        return await self.far_pool.fetchval("SELECT max(taken) FROM far_order WHERE key = $1", f"{saga_id}:ship") or 0

    async def insist(self, key: str, **plan: str) -> None:
        """Ask for a saga until a broker has confirmed it: the same request under the same key is the same saga."""
        while True:
            try:
                async with asyncio.timeout(10):
                    await self.knock(key, **plan)
            except (KafkaUnavailableError, KafkaError, OSError, TimeoutError):
                await self.bench.call_again()
            else:
                return

    async def rebuild(self, wish: RebuildRequest) -> Report:
        """Recover the database in use."""
        return await rebuild(self.settings, self.sagas, wish, ignore, ignore)


def ignore(_count: int) -> None:
    """Nobody watches."""


@asynccontextmanager
async def open_stage(
    stack: Stack, far_url: str, *, kafka: str = "", replicas: int = 1, url: str = ""
) -> AsyncGenerator[Stage]:
    """Give a stage with a database and nothing running; broker and database are the run's, or those that are named."""
    async with open_bench(kafka or stack.kafka, far_url, patience=BUSY, deadline=300.0, replicas=replicas) as bench:
        bind_restores(bench.kit)
        stage = Stage(bench, stack, bench.pool)
        if url:
            await execute(url, TABLES)
            await stage.use(url)
        else:
            await stage.new_database()
        try:
            yield stage
        finally:
            await stage.stop()
            stage.hang_up()
            for made in stage.databases:
                name = made.rsplit("/", 1)[1]
                await execute(stack.database_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
