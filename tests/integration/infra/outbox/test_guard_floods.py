"""What strangers write to the topics that the guard reads keeps nobody from starting, and is not kept in memory."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from confluent_kafka import Producer

from tests.broker import delete_topics
from tests.e2e.harness import Bench, open_bench
from tests.integration.infra.outbox.test_guard import one_saga, processors
from tests.waiting import until
from tradesaga.infra.kafka.topics import ensure_topics
from tradesaga.infra.outbox import guard
from tradesaga.infra.outbox.guard import Guard, read_owner
from tradesaga.infra.outbox.ports import make_inspector
from tradesaga.infra.outbox.processor import HaltError
from tradesaga.schemas.topics import checkpoints_topic, events_topic, installation_topic, saga_topics

pytestmark = pytest.mark.stack

QUICK = 8.0
"""Seconds that a check may take on a busy machine; what is read within bounds comes in one."""


@pytest.fixture
async def bench(kafka: str, database_url: str) -> AsyncIterator[Bench]:
    """Yield a bench with nothing running on it."""
    async with open_bench(kafka, database_url) as bench:
        yield bench


async def flood(kafka: str, topic: str, count: int, size: int) -> None:
    """Write junk to partition 0."""

    def write() -> None:
        producer = Producer(
            {
                "bootstrap.servers": kafka,
                "linger.ms": 50,
                "batch.num.messages": 100_000,
                "queue.buffering.max.messages": count + 1,
                "message.max.bytes": 1_000_000,
            }
        )
        for _ in range(count):
            producer.produce(topic, b"x" * size, partition=0)
        assert producer.flush(60) == 0

    await asyncio.to_thread(write)


async def check(bench: Bench) -> None:
    """Check the saga log's group as its first start does."""
    log = processors(bench)[2]
    async with asyncio.timeout(QUICK), bench.pool.acquire() as sql:
        await Guard(bench.kafka, bench.saga.name, log.group, log.topics).check(sql)


async def test_junk_behind_the_claim_is_not_read(bench: Bench) -> None:
    """The claim is the first record: a check reads one page of the topic, however long that is."""
    await one_saga(bench)
    await flood(bench.kafka, installation_topic(bench.saga.name), 1_000_000, 10)
    await check(bench)


async def test_large_records_at_the_ends_of_topics_are_read_within_bounds(bench: Bench) -> None:
    """They hide what lies before them, and halt nobody."""
    await one_saga(bench)
    for topic in (events_topic(bench.saga.name), checkpoints_topic(bench.saga.name)):
        await flood(bench.kafka, topic, 150, 900_000)
    await check(bench)


async def test_a_claim_behind_some_junk_counts(bench: Bench) -> None:
    """Who starts finds that nobody has claimed the topics, and all agree on the record that then does."""
    topic = installation_topic(bench.saga.name)
    await flood(bench.kafka, topic, guard.CLAIM_WITHIN.records - 2, 10)
    await check(bench)
    owner = await read_owner(bench.kafka, bench.saga.name)
    assert owner is not None
    await flood(bench.kafka, topic, 1000, 10)
    await check(bench)
    assert await read_owner(bench.kafka, bench.saga.name) == owner


@pytest.mark.parametrize(("count", "size"), [(guard.CLAIM_WITHIN.records, 10), (12, 900_000)])
async def test_topics_that_cannot_be_claimed_name_the_topic_to_make_anew(bench: Bench, count: int, size: int) -> None:
    """A claim behind so much junk would be read by some and not by others: a person acts, and the next start claims."""
    topic = installation_topic(bench.saga.name)
    await flood(bench.kafka, topic, count, size)
    with pytest.raises(HaltError, match=f"the first records of {topic} name no installation"):
        await check(bench)
    with pytest.raises(HaltError, match="delete only that topic"):
        await read_owner(bench.kafka, bench.saga.name)
    await asyncio.to_thread(delete_topics, bench.kafka, [topic])
    await ensure_topics(bench.kafka, [each for each in saga_topics(bench.saga.name) if each.name == topic])
    async with make_inspector(bench.kafka) as inspector:  # the broker hears of a new topic after its controller
        await until(lambda: inspector.topics([topic]))
    await check(bench)
    assert await read_owner(bench.kafka, bench.saga.name) is not None
