"""Single requests to the broker: partition counts, end offsets, whether a record can be delivered; topic changes.

aiokafka is untyped in part.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import structlog

from tradesaga.infra.kafka.codec import Record, to_record
from tradesaga.infra.kafka.connections import (
    KafkaUnavailableError,
    Partition,
    open_admin,
    open_consumer,
)
from tradesaga.infra.kafka.inspector import TopicState, open_inspector
from tradesaga.infra.kafka.names import Cluster, physical_name
from tradesaga.infra.kafka.topics import missing_topic

_REQUEST_MS: Final = 10_000
_RECORD_MS: Final = 3000
"""Milliseconds that a broker has to return a record that it holds."""


async def count_partitions(brokers: str, topics: Collection[str]) -> dict[str, int]:
    """Return the number of partitions of each topic.

    Raises `CommandError` for a missing topic, `KafkaUnavailableError`.
    """
    names = {Cluster.parse(brokers).physical(topic): topic for topic in topics}
    async with open_admin(brokers, _REQUEST_MS, where=brokers) as client:
        found = cast("list[Mapping[str, Any]]", await client.describe_topics(list(names)))
    counts = {names[each["topic"]]: len(each["partitions"]) for each in found if not each["error_code"]}
    for topic in topics:
        if not counts.get(topic):
            raise missing_topic(brokers, topic)
    return counts


async def read_cluster_id(brokers: str) -> str:
    """Return the cluster's id together with the topic prefix. Raises `KafkaUnavailableError`.

    A replay is resumed only where this is unchanged: another prefix means other records.
    """
    async with open_admin(brokers, _REQUEST_MS, where=brokers) as client:
        found = str((await client.describe_cluster())["cluster_id"])
    prefix = Cluster.parse(brokers).prefix
    return f"{found}.{prefix}" if prefix else found


async def read_ends(brokers: str, places: Collection[Partition]) -> dict[Partition, int]:
    """Return the offset after the last committed record of each partition. Raises `KafkaUnavailableError`."""
    async with open_consumer(brokers, request_timeout_ms=_REQUEST_MS) as consumer:
        return await consumer.end_offsets(places)


async def has_record(brokers: str, offsets: Mapping[Partition, int]) -> bool:
    """Return whether any of these partitions can deliver a record at its offset or after it.

    Control records, records of aborted or open transactions and deleted records do not count. Uses a connection of its
    own and no group. Raises `KafkaUnavailableError`.
    """
    return await find_record(brokers, offsets) is not None


async def find_record(brokers: str, offsets: Mapping[Partition, int]) -> tuple[Partition, int] | None:
    """Return the partition and offset of one record for which `has_record` is true.

    Raises `KafkaUnavailableError`.
    """
    async with open_consumer(brokers, auto_offset_reset="earliest", request_timeout_ms=_REQUEST_MS) as consumer:
        consumer.assign(offsets)
        for place, offset in offsets.items():
            consumer.seek(place, offset)
        found = await consumer.getmany(timeout_ms=_RECORD_MS, max_records=1) if offsets else {}
    return next(((place, records[0].offset) for place, records in found.items()), None)


async def read_topic(brokers: str, topic: str, partitions: int) -> AsyncGenerator[Record]:
    """Yield the records of a topic up to the last committed one, partition by partition, without a group.

    Raises `KafkaUnavailableError`.
    """
    async with open_consumer(brokers, where=physical_name(brokers, topic), request_timeout_ms=20_000) as consumer:
        for place in ((topic, number) for number in range(partitions)):
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:
                for record in (await consumer.getmany(place, timeout_ms=1000, max_records=5000)).get(place, ()):
                    if record.offset < end:
                        yield to_record(topic, record)


EVERY: Final = 2.0
"""Seconds between two checks."""

Changed = Callable[[], None]

_log = structlog.get_logger("topics")

_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, "_Watch"]] = WeakKeyDictionary()


@contextmanager
def watching(brokers: str, topics: Collection[str], changed: Changed) -> Generator[None]:
    """Call `changed` after each change of one of these topics while the context is open."""
    watches = _watches.setdefault(asyncio.get_running_loop(), {})
    watch = watches.setdefault(brokers, _Watch(brokers))
    watch.add(changed, topics)
    try:
        yield
    finally:
        watch.remove(changed)
        if not watch.listeners:
            watches.pop(brokers, None)


def differing(before: Mapping[str, TopicState], now: Mapping[str, TopicState]) -> set[str]:
    """Return the topics that were recreated, repartitioned or deleted."""
    return {name for name, state in before.items() if now.get(name) != state}


class _Watch:
    """Polls one cluster while there are listeners."""

    def __init__(self, brokers: str) -> None:
        self.listeners: dict[Changed, frozenset[str]] = {}
        self._brokers = brokers
        self._task: asyncio.Task[None] | None = None

    def add(self, changed: Changed, topics: Collection[str]) -> None:
        """Add a listener; the first one starts polling."""
        self.listeners[changed] = frozenset(topics)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"topics of {self._brokers}")

    def remove(self, changed: Changed) -> None:
        """Remove a listener; polling ends with the last one."""
        self.listeners.pop(changed, None)
        if not self.listeners and self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        known: dict[str, TopicState] = {}
        while True:
            try:
                async with open_inspector(self._brokers) as inspector:
                    while True:
                        names = frozenset[str]().union(*self.listeners.values())
                        now = await inspector.topics(sorted(names))
                        self._notify(differing(known, now))
                        known = dict(now)
                        await asyncio.sleep(EVERY)
            except KafkaUnavailableError as error:
                _log.info("topics are not watched", why=str(error))
                await asyncio.sleep(EVERY)

    def _notify(self, topics: Collection[str]) -> None:
        for changed, names in list(self.listeners.items()):
            if not names.isdisjoint(topics):
                changed()
