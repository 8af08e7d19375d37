# ruff: noqa: ARG002 - the partitioner's signature is aiokafka's
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportIncompatibleMethodOverride=false
"""An idempotent producer with settings that lose no records.

aiokafka is untyped in part, and its defaults lose records (acks=1); docs/decisions/0002 lists what is set, and why.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.kafka.connections import (
    REFUSALS,
    KafkaUnavailableError,
    MappedProducer,
    Partition,
    translated_errors,
)
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.schemas.envelope import Header

_BATCH_BYTES: Final = 128 * 1024
_ALONE: Final = _BATCH_BYTES // 4
"""Size in bytes from which a record is sent by itself."""
_SEVERAL: Final = 4
"""Number of records for one partition from which they are sent as a batch built here."""


class Producer:
    """An idempotent producer; discarded once it has failed, since it may never recover (aiokafka#1017)."""

    def __init__(self, brokers: str, client_id: str) -> None:
        self._counts: dict[str, int] = {}
        self._producer = MappedProducer(
            brokers,
            client_id=client_id,
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=_BATCH_BYTES,
            request_timeout_ms=20_000,
            partitioner=_Partitioner(),
        )

    async def start(self) -> None:
        """Connect. Raises `KafkaUnavailableError`."""
        with translated_errors():
            await self._producer.start()

    async def stop(self) -> None:
        """Flush and disconnect; records that cannot be flushed are left to the next owner of their lane."""
        await self._producer.stop()

    async def send(self, topic: str, key: bytes, value: bytes, headers: Sequence[Header]) -> asyncio.Future[Any]:
        """Queue one record; its future resolves when the broker has acknowledged or rejected it (`REFUSALS`).

        Raises `KafkaUnavailableError`.
        """
        try:
            future = await self._producer.send(topic, value, key=key, headers=list(headers))
        except REFUSALS as error:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
        except (KafkaError, OSError) as error:
            raise KafkaUnavailableError(f"{self._physical(topic)}: {error}") from error
        return future

    async def send_all(self, records: Sequence[Outgoing]) -> list[asyncio.Future[Any]]:
        """Queue records, those of each partition in order; returns a future for each, as `send` does.

        Several records for one partition are sent as prebuilt batches: one by one they take aiokafka three times as
        long. A large record is sent by itself, so that it is rejected alone. Raises `KafkaUnavailableError`.
        """
        acks: dict[int, asyncio.Future[Any]] = {}
        for (topic, partition), places in (await self._sort(records)).items():
            few = len(places) < _SEVERAL
            waiting: list[int] = []
            for place in places:
                record = records[place]
                if few or record.size + len(record.key) > _ALONE:
                    acks |= await self._send_batch(topic, partition, records, waiting)
                    waiting = []
                    acks[place] = await self.send(topic, record.key.encode(), record.value, record.headers)
                else:
                    waiting.append(place)
            acks |= await self._send_batch(topic, partition, records, waiting)
        return [acks[place] for place in range(len(records))]

    async def _sort(self, records: Sequence[Outgoing]) -> dict[Partition, list[int]]:
        """Return, by partition, the indexes of the records that go there."""
        counts = {topic: await self._count_partitions(topic) for topic in {record.topic for record in records}}
        found: dict[Partition, list[int]] = {}
        for place, record in enumerate(records):
            partition = partition_of(record.key.encode(), counts[record.topic])
            found.setdefault((record.topic, partition), []).append(place)
        return found

    async def _count_partitions(self, topic: str) -> int:
        with translated_errors(self._physical(topic)):
            count = await self._producer.count_partitions(topic)
        # A key keeps its partition while this producer lives; the next producer is made after a check of the topics.
        if (known := self._counts.setdefault(topic, count)) != count:
            raise KafkaUnavailableError(f"{self._physical(topic)} has {count} partitions now, and had {known}")
        return count

    async def _send_batch(
        self, topic: str, partition: int, records: Sequence[Outgoing], places: Sequence[int]
    ) -> dict[int, asyncio.Future[Any]]:
        """Queue records of one partition in as many batches as needed."""
        acks: dict[int, asyncio.Future[Any]] = {}
        left = list(places)
        while left:
            batch = self._producer.create_batch()
            taken = 0
            for place in left:
                record = records[place]
                if not batch.append(
                    timestamp=None, key=record.key.encode(), value=record.value, headers=record.headers
                ):
                    break
                taken += 1
            with translated_errors(self._physical(topic)):
                ack = await self._producer.send_batch(batch, topic, partition=partition)
            acks |= dict.fromkeys(left[:taken], ack)
            left = left[taken:]
        return acks

    def _physical(self, topic: str) -> str:
        return self._producer.cluster.physical(topic)


class _Partitioner(DefaultPartitioner):
    """Java's default partitioner, faster."""

    def __call__(self, key: Any, all_partitions: Any, available: Any) -> Any:
        return all_partitions[partition_of(key, len(all_partitions))]
