"""The port to Kafka: what the step path needs of a producer and of a group member."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.consumer import Consumer, Polled, Wants
from tradesaga.infra.kafka.inspector import Inspector, open_inspector
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.kafka.producer import Producer


class ProducerPort(Protocol):
    """Keeps the order of each partition and confirms only sent records. See `tradesaga.infra.kafka.producer`."""

    async def start(self) -> None:
        """Connect. Raises `KafkaUnavailableError`."""
        ...

    async def stop(self) -> None:
        """Flush and disconnect."""
        ...

    async def send_all(self, records: Sequence[Outgoing]) -> "Sequence[asyncio.Future[Any]]":
        """Queue records; the future of each resolves when the broker has it. Raises `KafkaUnavailableError`."""
        ...


class ConsumerPort(Protocol):
    """A group member that commits no offsets by itself. See `tradesaga.infra.kafka.consumer`."""

    async def start(
        self, on_revoked: Callable[[], Awaitable[None]], on_assigned: Callable[[], Awaitable[None]]
    ) -> None:
        """Join; records may be delivered before `on_assigned` has run. Raises `KafkaUnavailableError`."""
        ...

    async def stop(self) -> None:
        """Leave."""
        ...

    def assignment(self) -> set[Partition]:
        """Return the partitions assigned to this member, as far as it knows."""
        ...

    def seek(self, place: Partition, offset: int) -> None:
        """Read on from `offset`. Raises `KafkaUnavailableError` if the partition is not assigned."""
        ...

    async def poll(self, wants: Wants, timeout_ms: int, limit: int) -> dict[Partition, Polled]:
        """Return by partition the wanted records and the next offset."""
        ...

    def behind(self, offsets: Mapping[Partition, int]) -> int:
        """Count the records from these offsets to the ends, as far as they are known."""
        ...

    def held_back(self, offsets: Mapping[Partition, int]) -> dict[Partition, int]:
        """Return the partitions whose remaining records all wait for an open transaction, with their number."""
        ...

    async def ranges(self, places: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return the first and the next offset of each partition. Raises `KafkaUnavailableError`."""
        ...

    async def commit(self, offsets: Mapping[Partition, int], metadata: str = "") -> bool:
        """Commit offsets with metadata; return False if the group does not know this member."""
        ...


class Clients(Protocol):
    """Makes the clients of a simulation, in place of aiokafka's."""

    def producer(self, client_id: str) -> ProducerPort:
        """Make a producer."""
        ...

    def consumer(self, group: str, topics: Collection[str], client_id: str, session_ms: int) -> ConsumerPort:
        """Make a group member."""
        ...

    def inspector(self) -> AbstractAsyncContextManager[Inspector]:
        """Make an inspector that is connected while the context is open."""
        ...


Brokers = str | Clients
"""An address in the format of `tradesaga.infra.kafka.names.Cluster`, or a simulation's clients."""


def cluster_of(brokers: Brokers) -> Cluster:
    """Return the cluster with its topic prefix; a simulation has none."""
    return Cluster.parse(brokers) if isinstance(brokers, str) else Cluster("")


def make_producer(brokers: Brokers, client_id: str) -> ProducerPort:
    """Make a producer that is not connected yet."""
    return Producer(brokers, client_id) if isinstance(brokers, str) else brokers.producer(client_id)


def make_consumer(
    brokers: Brokers, group: str, topics: Collection[str], client_id: str, session_ms: int
) -> ConsumerPort:
    """Make a group member that has not joined yet."""
    if isinstance(brokers, str):
        return Consumer(brokers, group, topics, client_id, session_ms)
    return brokers.consumer(group, topics, client_id, session_ms)


def make_inspector(brokers: Brokers) -> AbstractAsyncContextManager[Inspector]:
    """Make an inspector that is connected while the context is open."""
    return open_inspector(brokers) if isinstance(brokers, str) else brokers.inspector()
