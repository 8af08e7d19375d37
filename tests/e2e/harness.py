"""Participants and the saga log on the real servers, in this process: started, stopped, and asked what they did."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import structlog

from tests.broker import temporary_topics
from tests.e2e.far import TABLES, FarSide
from tests.e2e.messages import Asked
from tests.e2e.sagas import Kit, make_kit
from tests.e2e.steps import QUICK
from tests.e2e.tail import Heard, Tail
from tests.waiting import until
from tradesaga.consumers.participant import Participant
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.audit_log.seals import SealTrust
from tradesaga.infra.clock import SystemClock, format_time, new_id
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.outbox.processor import Processor
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import Pool, open_pool
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.step import Retry
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import Envelope, Header, splice
from tradesaga.schemas.identity import request_hash
from tradesaga.schemas.messages.message import Command, Message, wire_type
from tradesaga.schemas.topics import PARTITIONS, commands_topic, dead_letters_topic, events_topic, saga_topics

SESSION_MS = 3000
PATIENCE = 30.0
"""Seconds that anything may take on a busy machine."""
ENDED = ("COMPLETED", "ABORTED", "FAILED")


@dataclass
class Running:
    """A worker and the task that runs it."""

    worker: Worker
    task: asyncio.Task[None]

    async def ready(self) -> None:
        """Wait until it has claimed its lanes."""

        async def claimed() -> bool:
            if self.task.done():
                self.task.result()
            return self.worker.health.ready

        await until(claimed, PATIENCE)

    async def stop(self) -> None:
        """End it as a signal would."""
        self.task.cancel()
        await asyncio.wait([self.task])


@dataclass
class Bench:
    """One saga under a name of its own, its topics and database, and whatever runs on them."""

    kit: Kit
    kafka: str
    url: str
    pool: Pool
    far: FarSide
    tail: Tail
    producer: Producer
    running: list[Running] = field(default_factory=list[Running])

    @property
    def saga(self) -> AnySaga:
        """Give the definition."""
        return self.kit.saga

    def run(
        self, processor: Processor, *, pool: Pool | None = None, batch: int = 1000, trust: SealTrust | None = None
    ) -> Running:
        """Run a processor in a task."""
        owner = f"test-{uuid4().hex[:8]}"
        worker = Worker(
            processor, pool or self.pool, self.kafka, owner, session_ms=SESSION_MS, batch=batch, trust=trust
        )
        running = Running(worker, asyncio.create_task(worker.run(), name=f"worker {processor.group}"))
        self.running.append(running)
        return running

    async def serve(self, *participants: Participant, log: bool = False) -> list[Running]:
        """Run participants, and the saga log if asked for, and wait until they own their lanes."""
        running = [self.run(StepProcessor(participant)) for participant in participants]
        if log:
            running.append(self.run(SagaLog(Rules(self.saga))))
        for each in running:
            await each.ready()
        return running

    async def serve_all(self) -> list[Running]:
        """Run everything that the saga needs."""
        return await self.serve(self.kit.desk, self.kit.port, log=True)

    async def stop(self) -> None:
        """End all that runs."""
        await asyncio.gather(*(running.stop() for running in self.running))
        self.running.clear()

    async def call_again(self) -> None:
        """Take a new producer: one that has seen its broker fall may be poisoned."""
        await self.producer.stop()
        self.producer = Producer(self.kafka, "test")
        await self.producer.start()

    async def hang_up(self) -> None:
        """Stop the producer."""
        await self.producer.stop()

    async def send(self, topic: str, saga_id: UUID, value: bytes, headers: list[Header]) -> None:
        """Publish anything under the saga's key."""
        await (await self.producer.send(topic, str(saga_id).encode(), value, headers))

    async def ask(self, saga_id: UUID | None = None, account: str = "alice", **plan: str) -> UUID:
        """Start a saga whose handlers follow the plan."""
        saga_id = saga_id or uuid4()
        await self.say(saga_id, Asked(idempotency_key=str(saga_id), account=account, plan=plan))
        return saga_id

    async def say(self, saga_id: UUID, message: Message, context: bytes | None = None, **fields: Any) -> Envelope:
        """Publish a fact or a command; a fact's context holds itself unless one is given."""
        value = message.to_wire()
        given = context if context is not None else splice(b"", message.NAME, value)
        request = request_hash(message) if isinstance(message, Asked) else ""
        envelope = Envelope(
            type=wire_type(self.saga.name, type(message)), id=str(new_id()), source="/test", saga_id=str(saga_id),
            time=format_time(SystemClock().now()), context=given, request=request,
        )  # fmt: skip
        envelope = envelope._replace(**fields)
        topic = commands_topic(self.saga.name) if isinstance(message, Command) else events_topic(self.saga.name)
        await self.send(topic, saga_id, value, envelope.to_headers())
        return envelope

    async def repeat(self, heard: Heard) -> None:
        """Publish a record again, byte for byte."""
        await (await self.producer.send(heard.topic, heard.key, heard.value, list(heard.headers)))

    async def heard(self, saga_id: UUID, message: type[Message], count: int = 1) -> list[Heard]:
        """Wait until a message has been said of a saga `count` times."""

        async def said() -> bool:
            return len(self.tail.of(saga_id, message)) >= count

        try:
            await until(said, PATIENCE)
        except TimeoutError:
            raise TimeoutError(f"{message.NAME} x{count} was not said; heard {self.tail.names(saga_id)}") from None
        return self.tail.of(saga_id, message)

    async def settled(self, saga_id: UUID, *states: str) -> asyncpg.Record:
        """Wait until the saga has ended, or is in one of these states, and give its row."""
        wanted = states or ENDED

        async def ended() -> bool:
            state = await self.pool.fetchval("SELECT state FROM saga WHERE saga_id = $1", saga_id)
            return state in wanted

        try:
            await until(ended, PATIENCE)
        except TimeoutError:
            raise TimeoutError(f"the saga has not ended; heard {self.tail.names(saga_id)}") from None
        found = await self.pool.fetchrow("SELECT * FROM saga WHERE saga_id = $1", saga_id)
        assert found is not None
        return found

    async def row(self, saga_id: UUID, step: str) -> asyncpg.Record | None:
        """Give the step's row."""
        return await self.pool.fetchrow("SELECT * FROM step_execution WHERE (saga_id, step) = ($1, $2)", saga_id, step)

    async def reaches(self, saga_id: UUID, step: str, status: RowStatus) -> asyncpg.Record:
        """Wait until the step's row has a status."""

        async def there() -> bool:
            row = await self.row(saga_id, step)
            return row is not None and row["status"] == status

        await until(there, PATIENCE)
        row = await self.row(saga_id, step)
        assert row is not None
        return row

    async def effects(self, saga_id: UUID) -> list[tuple[str, str]]:
        """Give what has taken effect in the database: (step, direction), in order."""
        found = await self.pool.fetch("SELECT step, direction FROM effect WHERE saga_id = $1 ORDER BY id", saga_id)
        return [(row["step"], row["direction"]) for row in found]

    async def attempts(self, saga_id: UUID, step: str, direction: str = "forward") -> list[int]:
        """Give the attempts that were begun, whatever came of them."""
        statement = "SELECT attempt FROM attempt WHERE (saga_id, step, direction) = ($1, $2, $3) ORDER BY id"
        return [row["attempt"] for row in await self.pool.fetch(statement, saga_id, step, direction)]

    async def calls(self, saga_id: UUID, kind: str) -> int:
        """Count the requests of one kind that the far side has had about a saga."""
        statement = "SELECT count(*) FROM far_call WHERE key LIKE $1 AND kind = $2"
        return await self.pool.fetchval(statement, f"{saga_id}%", kind)


@asynccontextmanager
async def open_bench(
    kafka: str, url: str, *, patience: float = 0.5, deadline: float = 60.0, retry: Retry = QUICK, replicas: int = 1
) -> AsyncGenerator[Bench]:
    """Give a bench with nothing running on it yet."""
    # The default draws every local variable of a traceback, for seconds, while the event loop stands still.
    plain = [structlog.processors.TimeStamper("%H:%M:%S.%f"), structlog.processors.format_exc_info]
    structlog.configure(processors=[*plain, structlog.dev.ConsoleRenderer(colors=False)])
    name = f"t{uuid4().hex[:10]}"
    topics = {topic.name: topic.configuration for topic in saga_topics(name)}
    async with AsyncExitStack() as stack:
        stack.callback(structlog.reset_defaults)
        stack.enter_context(temporary_topics(kafka, list(topics), PARTITIONS, replicas, topics))
        pool = await open_pool(url, min_size=1, max_size=12)
        stack.push_async_callback(pool.close)
        far_pool = await open_pool(url, min_size=1, max_size=8)
        stack.push_async_callback(far_pool.close)
        await pool.execute(TABLES)
        far = FarSide(far_pool)
        told = [events_topic(name), commands_topic(name), dead_letters_topic(name)]
        tail = await stack.enter_async_context(Tail(kafka, told, PARTITIONS))
        kit = make_kit(name, far, patience=patience, deadline=deadline, retry=retry)
        bench = Bench(kit, kafka, url, pool, far, tail, Producer(kafka, "test"))
        await bench.producer.start()
        stack.push_async_callback(bench.hang_up)
        stack.push_async_callback(bench.stop)
        yield bench
