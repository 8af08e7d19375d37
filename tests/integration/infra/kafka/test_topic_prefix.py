# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateImportUsage=false
"""Two installations on one cluster, each with its prefix and its database: neither sees a record of the other."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from uuid import UUID, uuid4

import pytest
from confluent_kafka.admin import AdminClient

from tests.broker import delete_topics, read_topic
from tests.conftest import Stack, fresh_database
from tests.e2e.far import TABLES, FarSide
from tests.e2e.harness import PATIENCE
from tests.e2e.messages import Asked
from tests.e2e.sagas import Kit, make_kit
from tests.keys import KEYS
from tests.waiting import until
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.errors import CommandError
from tradesaga.infra.kafka.admin import count_partitions, read_cluster_id
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.kafka.topics import TopicPolicy, check_topics, ensure_topics, read_removals, set_clock
from tradesaga.infra.outbox.guard import read_owner
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import Pool, open_pool
from tradesaga.schemas import identity
from tradesaga.schemas.topics import PARTITIONS, events_topic, saga_topics, starts_topic

pytestmark = pytest.mark.stack

COUNT = 5


class Desk:
    """An installation with everything that a saga needs."""

    def __init__(self, cluster: Cluster, kit: Kit, pool: Pool) -> None:
        self.cluster = cluster
        self.brokers = str(cluster)
        self.kit = kit
        self.name = kit.saga.name
        self.pool = pool
        self.workers = [
            Worker(each, pool, self.brokers, f"test-{uuid4().hex[:6]}", session_ms=3000)
            for each in (
                StepProcessor(kit.desk), StepProcessor(kit.port), SagaLog(Rules(kit.saga)), Intake(kit.saga, KEYS),
            )
        ]  # fmt: skip

    @property
    def groups(self) -> set[str]:
        """Return the groups that the cluster has of it."""
        return {self.cluster.physical(f"{self.name}-{each}") for each in ("desk", "port", "log", "intake")}

    async def start(self, key: str) -> UUID:
        """Put a start on the topic, as a client does, and return the saga's id."""
        producer = Producer(self.brokers, "test")
        await producer.start()
        try:
            asked = Asked(idempotency_key=key, account="alice")
            await (await producer.send(starts_topic(self.name), b"any", asked.to_wire(), []))
        finally:
            await producer.stop()
        return identity.saga_id(self.name, "alice", key)

    async def completed(self, saga_id: UUID) -> None:
        """Wait for the end of a saga."""

        async def ended() -> bool:
            return await self.pool.fetchval("SELECT state FROM saga WHERE saga_id = $1", saga_id) == "COMPLETED"

        await until(ended, PATIENCE)


@asynccontextmanager
async def open_desk(stack: Stack, url: str, prefix: str, name: str) -> AsyncGenerator[Desk]:
    """Make its topics."""
    cluster = Cluster(stack.kafka, prefix)
    async with AsyncExitStack() as closing:
        await ensure_topics(str(cluster), saga_topics(name))
        names = [cluster.physical(topic.name) for topic in saga_topics(name)]
        closing.callback(delete_topics, stack.kafka, names)
        pool = await open_pool(url, max_size=16)
        closing.push_async_callback(pool.close)
        await pool.execute(TABLES)
        yield Desk(cluster, make_kit(name, FarSide(pool), patience=0.5), pool)


@asynccontextmanager
async def at_work(desk: Desk) -> AsyncGenerator[None]:
    """Run everything while the body runs."""
    tasks = [asyncio.create_task(worker.run()) for worker in desk.workers]
    try:

        async def ready() -> bool:
            return all(worker.health.ready for worker in desk.workers)

        await until(ready, PATIENCE)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.fixture
def urls(stack: Stack) -> Iterator[list[str]]:
    """Yield three fresh databases."""
    with ExitStack() as closing:
        yield [closing.enter_context(fresh_database(stack)) for _ in range(3)]


@pytest.fixture
async def desks(stack: Stack, urls: list[str]) -> AsyncIterator[list[Desk]]:
    """Yield three installations of the same saga: two with prefixes, of which one begins the other, and one without."""
    name, mine = f"t{uuid4().hex[:10]}", f"d{uuid4().hex[:6]}"
    async with AsyncExitStack() as closing:
        yield [
            await closing.enter_async_context(open_desk(stack, url, prefix, name))
            for url, prefix in zip(urls, (mine, f"{mine}-b", ""), strict=True)
        ]


async def test_installations_share_a_cluster_and_nothing_else(desks: list[Desk], stack: Stack) -> None:
    """The same starts of the same saga run in each; rows and headers have no prefix, topics and groups have theirs."""
    async with AsyncExitStack() as running:
        for desk in desks:
            await running.enter_async_context(at_work(desk))
        for number in range(COUNT):
            for desk in desks[:2]:
                await desk.completed(await desk.start(f"k{number}"))
        assert await desks[2].pool.fetchval("SELECT count(*) FROM saga") == 0
        await desks[2].completed(await desks[2].start("k0"))
    admin = AdminClient({"bootstrap.servers": stack.kafka})
    listed = await asyncio.to_thread(admin.list_topics, timeout=10)
    groups = {each.group_id for each in (await asyncio.to_thread(admin.list_consumer_groups().result)).valid}
    name = desks[0].name
    assert {topic for topic in listed.topics if name in topic} == {
        desk.cluster.physical(topic.name) for desk in desks for topic in saga_topics(name)
    }
    assert {group for group in groups if name in group} == {group for desk in desks for group in desk.groups}
    assert len({await read_cluster_id(desk.brokers) for desk in desks}) == len(desks)
    owners = {await read_owner(desk.brokers, name) for desk in desks}
    assert len(owners) == len(desks)
    logical = {topic.name for topic in saga_topics(name)}
    for desk, count in zip(desks, (COUNT, COUNT, 1), strict=True):
        assert await desk.pool.fetchval("SELECT count(*) FROM saga") == count
        for table in ("lane", "saga_event"):
            rows = await desk.pool.fetch(f"SELECT DISTINCT topic FROM {table}")
            assert {row["topic"] for row in rows} <= logical
        topic = desk.cluster.physical(events_topic(name))
        audited = await desk.pool.fetchval("SELECT count(*) FROM saga_event")
        facts = await asyncio.to_thread(read_topic, stack.kafka, topic, audited, PARTITIONS)
        assert len(facts) == audited
        assert {fact.headers["ce_type"].decode().split(".")[0] for fact in facts} == {name}


async def test_a_prefix_that_changes_halts_every_group(desks: list[Desk]) -> None:
    """The database has read topics of another name; the reason has the names that Kafka's tools show."""
    first, second = desks[:2]
    async with at_work(first):
        await first.completed(await first.start("k"))
    moved = Desk(second.cluster, second.kit, first.pool)
    tasks = [asyncio.create_task(worker.run()) for worker in moved.workers]
    try:

        async def halted() -> bool:
            return all(worker.health.halted for worker in moved.workers)

        await until(halted, PATIENCE)
        for worker in moved.workers:
            assert f"the topic {second.cluster.prefix}.{second.name}." in worker.health.halted
            assert "was deleted and recreated" in worker.health.halted
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_topics_are_checked_and_altered_under_their_prefix(desks: list[Desk], stack: Stack) -> None:
    """Answers have our own names, sentences those of the cluster."""
    desk, topics = desks[0], saga_topics(desks[0].name)
    counts = {topic.name: topic.partitions for topic in topics}
    assert await check_topics(desk.brokers, topics, TopicPolicy()) == counts
    assert await count_partitions(desk.brokers, list(counts)) == counts
    (starts,) = [topic for topic in topics if topic.public]
    assert set(await read_removals(desk.brokers, list(counts))) >= {starts.name}
    await set_clock(desk.brokers, [starts], "CreateTime")
    said = f"topic {desk.cluster.physical(starts.name)} has message.timestamp.type=CreateTime"

    async def refused() -> bool:
        try:
            await check_topics(desk.brokers, topics, TopicPolicy())
        except CommandError as error:
            return error.what.startswith(said)
        return False

    await until(refused, PATIENCE)
    assert await check_topics(stack.kafka, topics, TopicPolicy()) == counts
    with pytest.raises(CommandError, match=rf"Kafka has no topic {desk.cluster.prefix}\.none\.events"):
        await count_partitions(desk.brokers, ["none.events"])
