"""Kafka on a bad day: logs, groups and fetches in memory, with every trap that was met on real brokers."""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from tradesaga.consumers.testing.simulation.group import Group
from tradesaga.consumers.testing.simulation.inspector import SimInspector
from tradesaga.consumers.testing.simulation.loop import Process, SimLoop
from tradesaga.consumers.testing.simulation.member import SimConsumer
from tradesaga.consumers.testing.simulation.sender import SimProducer
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.schemas.envelope import Header

EPOCH_NS: Final = 1_790_000_000_000_000_000
"""Nanoseconds since 1970 at which every simulation begins."""


@dataclass(slots=True)
class Moods:
    """What the broker does next to one process' clients; each is used up by doing it."""

    acks: list[str] = field(default_factory=list[str])
    """`lost`: appended, and the answer lost; `failed`: not appended; `twice`: appended twice."""
    fetch_fails: int = 0
    callback_late: float = 0.0
    """Seconds for which records are delivered before the client is told what it has been assigned."""
    reuses_generation: bool = False
    """Commits of a member that has been expelled are taken, for its generation's number is in use again."""


class SimBroker:
    """One broker: topics of `partitions` partitions each, made when they are first written to."""

    def __init__(self, loop: SimLoop, partitions: int) -> None:
        self.loop = loop
        self.partitions = partitions
        self.logs: dict[str, list[list[Record]]] = {}
        self.groups: dict[str, Group] = {}
        self.down_until = 0.0
        self.clock_offset = 0.0
        self._moods: dict[str, Moods] = {}
        self._homes: dict[bytes, int] = {}
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self.appended: Callable[[Record], None] = lambda _: None

    @property
    def down(self) -> bool:
        """Say whether it answers nobody now."""
        return self.loop.time() < self.down_until

    def mood(self, process: Process) -> Moods:
        """Give what it has in store for a process."""
        return self._moods.setdefault(process.name, Moods())

    def now_ms(self) -> int:
        """Give the broker's time, milliseconds since 1970."""
        return EPOCH_NS // 1_000_000 + int((self.loop.time() + self.clock_offset) * 1000)

    def log(self, topic: str, partition: int) -> list[Record]:
        """Give the records of a partition."""
        logs = self.logs.get(topic)
        if logs is None:
            logs = self.logs[topic] = [[] for _ in range(self.partitions)]
        return logs[partition]

    def home(self, key: bytes) -> int:
        """Give the partition of a key."""
        home = self._homes.get(key)
        if home is None:
            home = self._homes[key] = partition_of(key, self.partitions)
        return home

    def append(self, topic: str, key: bytes, value: bytes, headers: Sequence[Header]) -> Record:
        """Put a record on its topic and tell those who wait for it."""
        partition = self.home(key)
        log = self.log(topic, partition)
        record = Record(topic, partition, len(log), self.now_ms(), key, value, headers)
        log.append(record)
        self.appended(record)
        for listener in self._listeners.get(topic, ()):
            listener()
        return record

    def listen(self, topics: Collection[str], listener: Callable[[], None]) -> None:
        """Have `listener` called at each append to these topics."""
        for topic in topics:
            self._listeners.setdefault(topic, []).append(listener)

    def ranges(self, places: Collection[Place]) -> dict[Place, tuple[int, int]]:
        """Give the first and the next offset of each partition."""
        return {place: (0, len(self.log(*place))) for place in places}

    def group(self, name: str) -> Group:
        """Give a consumer group."""
        if name not in self.groups:
            self.groups[name] = Group(self, name)
        return self.groups[name]

    def committed(self, group: str) -> Mapping[Place, int]:
        """Give a group's own offsets."""
        return self.group(group).offsets


class SimClients:
    """Makes the clients of one process."""

    def __init__(self, broker: SimBroker, process: Process) -> None:
        self._broker = broker
        self._process = process

    def producer(self, client_id: str) -> SimProducer:  # noqa: ARG002 - the process says who it is
        """Make a producer."""
        return SimProducer(self._broker, self._process)

    def consumer(self, group: str, topics: Collection[str], client_id: str, session_ms: int) -> SimConsumer:
        """Make a member of a group."""
        return SimConsumer(self._broker, self._process, group, topics, name=client_id, session_ms=session_ms)

    @asynccontextmanager
    async def inspector(self) -> AsyncGenerator[SimInspector]:
        """Make an inspector."""
        yield SimInspector(self._broker, self._process)
