"""Topics read back: batch by batch, whatever their records hold."""

import pytest
from aiokafka.record.default_records import (
    _DefaultRecordBatchBuilderPy,  # pyright: ignore[reportPrivateUsage] - the one written in C takes text alone
)
from aiokafka.record.memory_records import MemoryRecords

from tests.broker import temporary_topic
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.kafka.topic_reader import TopicReader

pytestmark = pytest.mark.stack


class NoText(str):
    """A header's name as a client in C may send it."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Give no UTF-8."""
        return b"\xff\xfe"


async def test_a_header_name_that_is_no_text_keeps_no_topic_from_being_read(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our client library gives up on it; a recovery reads it, and all before and behind it, in order."""
    for module in ("producer", "message_accumulator"):
        monkeypatch.setattr(f"aiokafka.producer.{module}.DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
    monkeypatch.setattr("aiokafka.consumer.fetcher.MemoryRecords", MemoryRecords)  # and put back afterwards
    with temporary_topic(kafka, "replay") as topic:
        producer = Producer(kafka, "test")
        await producer.start()
        for number in range(30):
            name = NoText("x") if number in {10, 11, 20} else "x"
            await (await producer.send(topic, b"k", b"%d" % number, [(name, b"1")]))
        await producer.stop()
        async with TopicReader(kafka) as replay:
            ranges = await replay.ranges([(topic, 0)])
            read = [record async for batch in replay.read((topic, 0), *ranges[topic, 0]) for record in batch]
    assert [int(record.value) for record in read] == list(range(30))
