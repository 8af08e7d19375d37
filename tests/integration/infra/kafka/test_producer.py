"""Our producer on a real broker: many records at once, one refused among them."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tradesaga.infra.kafka.admin import read_topic
from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.kafka.connections import REFUSALS
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.kafka.topics import ensure_topics
from tradesaga.schemas.topics import PARTITIONS, events_topic, saga_topics

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]
SAGAS = 60


@pytest_asyncio.fixture
async def producer(kafka: str) -> AsyncIterator[Producer]:
    """Give a producer that is connected."""
    producer = Producer(kafka, "test")
    await producer.start()
    yield producer
    await producer.stop()


def said(topic: str, saga_id: UUID, number: int, size: int = 0) -> Outgoing:
    """Make the n-th record of a saga, as large as is asked."""
    value = f'{{"number":{number},"pad":"{"x" * size}"}}'.encode()
    return Outgoing(topic, str(saga_id), uuid4(), "t.x.v1", [("ts_number", b"%d" % number)], value)


async def test_many_records_keep_their_order_and_are_answered_each(kafka: str, producer: Producer) -> None:
    """In batches, singly where one is large, twice in a row: each saga's come in their order."""
    saga = f"t{uuid4().hex[:8]}"
    topic = events_topic(saga)
    await ensure_topics(kafka, saga_topics(saga))
    sagas = [uuid4() for _ in range(SAGAS)]
    sizes = {3: 60_000, 7: 300_000}
    halves = [
        [said(topic, saga_id, number, sizes.get(number, 0)) for number in numbers for saga_id in sagas]
        for numbers in (range(5), range(5, 10))
    ]
    acks = [await producer.send_all(half) for half in halves]
    for ack in (ack for half in acks for ack in half):
        assert (await ack).topic == topic
    found: dict[str, list[int]] = {}
    async for record in read_topic(kafka, topic, PARTITIONS):
        found.setdefault((record.key or b"").decode(), []).append(int(record.header("ts_number")))
    assert found == {str(saga_id): list(range(10)) for saga_id in sagas}


async def test_a_record_that_is_too_large_is_refused_alone(kafka: str, producer: Producer) -> None:
    """Those before and behind it are taken, its own future says why it is not."""
    saga = f"t{uuid4().hex[:8]}"
    topic = events_topic(saga)
    await ensure_topics(kafka, saga_topics(saga))
    saga_id = uuid4()
    records = [said(topic, saga_id, number, 2 * 1024 * 1024 if number == 5 else 0) for number in range(10)]
    told = await asyncio.gather(*await producer.send_all(records), return_exceptions=True)
    assert [number for number, each in enumerate(told) if isinstance(each, REFUSALS)] == [5]
    assert [each for each in told if isinstance(each, BaseException)] == [told[5]]
