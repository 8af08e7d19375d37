# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""All that is said on a saga's topics, as it comes: what a test waits for and looks at."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from tradesaga.schemas.messages.message import Message


@dataclass(frozen=True)
class Heard:
    """One record; `name` is the middle of its type."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]

    def header(self, name: str) -> str:
        """Give a header as text; empty if it is not there."""
        return dict(self.headers).get(name, b"").decode("utf-8", "replace")

    @property
    def name(self) -> str:
        """Give the message's name: `paid` of `t1.paid.v1`."""
        return self.header("ce_type").split(".")[-2] if self.header("ce_type").count(".") > 1 else ""

    @property
    def context(self) -> bytes:
        """Give the saga's facts that the record carries along."""
        return dict(self.headers).get("ts_context", b"")

    @property
    def record(self) -> tuple[bytes, bytes, tuple[tuple[str, bytes], ...]]:
        """Give key, value and headers: what must be the same when a fact is said twice."""
        return self.key, self.value, self.headers


class Tail:
    """Reads topics from their beginning, without a group, while it is entered."""

    def __init__(self, kafka: str, topics: Sequence[str], partitions: int) -> None:
        self._consumer = AIOKafkaConsumer(bootstrap_servers=kafka, fetch_max_wait_ms=20, enable_auto_commit=False)
        self._places = [TopicPartition(topic, number) for topic in topics for number in range(partitions)]
        self._task: asyncio.Task[None] | None = None
        self.records: list[Heard] = []

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        self._consumer.assign(self._places)
        await self._consumer.seek_to_beginning(*self._places)
        self._task = asyncio.create_task(self._read(), name="tail")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._consumer.stop()

    async def _read(self) -> None:
        async for record in self._consumer:
            headers = tuple((name, bytes(value or b"")) for name, value in record.headers)
            key, value = bytes(record.key or b""), bytes(record.value or b"")
            self.records.append(Heard(record.topic, record.partition, record.offset, key, value, headers))

    def of(self, saga_id: UUID, *messages: type[Message]) -> list[Heard]:
        """Give what was said of a saga, in the order of its partition; only these messages, where some are named."""
        names, key = {message.NAME for message in messages}, str(saga_id).encode()
        return [heard for heard in self.records if heard.key == key and (not names or heard.name in names)]

    def names(self, saga_id: UUID) -> list[str]:
        """Name what was said of a saga."""
        return [heard.name for heard in self.of(saga_id)]
