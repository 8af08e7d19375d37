"""A saga log and an intake on real servers, fed by hand: no participant answers but the test."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from tests.broker import Seen, read_topic, wait_for_topics
from tests.sagas import headers_of, small_saga
from tests.waiting import until
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.kafka.topics import ensure_topics
from tradesaga.infra.outbox.processor import Processor
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import Pool, open_pool
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.messages.message import Message
from tradesaga.schemas.topics import saga_topics

PARTITIONS = 3


class Rig:
    """One saga of this test alone, its topics, its database, and a producer."""

    def __init__(self, saga: AnySaga, kafka: str, url: str, pool: Pool, producer: Producer) -> None:
        self.saga = saga
        self.kafka = kafka
        self.url = url
        self.pool = pool
        self.producer = producer
        self.rules = Rules(saga, PARTITIONS)

    def topic(self, kind: str) -> str:
        """Name one of the saga's topics."""
        return f"{self.saga.name}.{kind}"

    async def say(self, saga_id: UUID, event: Message, **given: str | int) -> Record:
        """Publish a fact of the saga and give its record, as the broker has it."""
        headers = headers_of(self.saga, event, saga_id, **given)
        return await self.put(self.topic("events"), str(saga_id).encode(), event.to_wire(), headers)

    async def put(self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> Record:
        """Publish any bytes."""
        ack = await (await self.producer.send(topic, key, value, headers))
        return Record(topic, ack.partition, ack.offset, ack.timestamp, key, value, headers)

    async def saga_row(self, saga_id: UUID) -> asyncpg.Record | None:
        """Give the saga's checkpoint."""
        return await self.pool.fetchrow("SELECT * FROM saga WHERE saga_id = $1", saga_id)

    async def events(self, saga_id: UUID) -> list[asyncpg.Record]:
        """Give the saga's audit rows."""
        return await self.pool.fetch(
            'SELECT * FROM saga_event WHERE saga_id = $1 ORDER BY partition, "offset"', saga_id
        )

    async def reached(self, saga_id: UUID, state: str) -> asyncpg.Record:
        """Wait until the saga is in this state."""
        found: list[asyncpg.Record] = []

        async def there() -> bool:
            row = await self.saga_row(saga_id)
            found[:] = [row] if row is not None and row["state"] == state else []
            return bool(found)

        await until(there)
        return found[0]

    async def recorded(self, count: int) -> None:
        """Wait until the audit log has this many rows."""

        async def there() -> bool:
            return await self.pool.fetchval("SELECT count(*) FROM saga_event") >= count

        await until(there)

    async def read(self, kind: str, count: int) -> list[Seen]:
        """Read one of the saga's topics from the beginning."""
        cluster = Cluster.parse(self.kafka)
        topic = cluster.physical(self.topic(kind))
        return await asyncio.to_thread(read_topic, cluster.bootstrap, topic, count, PARTITIONS)

    @asynccontextmanager
    async def running(self, processor: Processor | None = None) -> AsyncGenerator[Worker]:
        """Run the saga log, or another processor, while the body runs."""
        worker = Worker(processor or SagaLog(self.rules), self.pool, self.kafka, f"test-{uuid4().hex[:6]}")
        task = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            task.cancel()
            await asyncio.wait([task])


@asynccontextmanager
async def open_rig(
    kafka: str, url: str, deadline: timedelta = timedelta(minutes=5), name: str = "", saga: AnySaga | None = None
) -> AsyncGenerator[Rig]:
    """Make the topics of a saga, of its own unless it is named or given, and the connections."""
    saga = saga or small_saga(name or f"small-{uuid4().hex[:8]}", deadline)
    topics, cluster = [replace(topic, partitions=PARTITIONS) for topic in saga_topics(saga.name)], Cluster.parse(kafka)
    await ensure_topics(kafka, topics)
    await asyncio.to_thread(wait_for_topics, cluster.bootstrap, [cluster.physical(topic.name) for topic in topics])
    producer = Producer(kafka, "test")
    await producer.start()
    pool = await open_pool(url, max_size=6)
    try:
        yield Rig(saga, kafka, url, pool, producer)
    finally:
        await pool.close()
        await producer.stop()


async def ready(worker: Worker) -> None:
    """Wait until the worker has its lanes."""

    async def claimed() -> bool:
        return worker.health.ready

    await until(claimed)


def parsed(row: asyncpg.Record | None) -> dict[str, Any]:
    """Give a row as a dictionary."""
    assert row is not None
    return dict(row)
