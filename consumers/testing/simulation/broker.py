"""A simulated Kafka broker: its logs, consumer groups and rebalances in memory, with the failures of real brokers."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from tradesaga.consumers.testing.simulation.loop import Process, SimLoop
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.schemas.envelope import Header

EPOCH_NS: Final = 1_790_000_000_000_000_000
"""Nanoseconds since 1970 at which every simulation begins."""


HEARTBEAT: Final = 0.4
"""Seconds within which a member hears of a rebalance, or of its own expulsion."""
FIRST_DELAY: Final = 0.3
"""Seconds for which a group that is new waits for its first members."""
REBALANCE_LIMIT: Final = 4.0
"""Seconds for which a rebalance waits for its members."""


@dataclass(slots=True)
class PlannedFailures:
    """Failures that the clients of one process will meet next; each occurs once."""

    acks: list[str] = field(default_factory=list[str])
    """`lost`: appended, and the answer lost; `failed`: not appended; `twice`: appended twice."""
    fetch_fails: int = 0
    callback_late: float = 0.0
    """Seconds for which records are delivered before the client is told what it has been assigned."""
    reuses_generation: bool = False
    """Commits of a member that has been expelled are taken, for its generation's number is in use again."""


class GroupMember(Protocol):
    """What a group needs to know of a member."""

    name: str
    topics: list[str]
    generation: int
    process: Process

    def hear(self) -> None:
        """Learn at a heartbeat that the group wants this member to rejoin."""
        ...


class Group:
    """One group at its coordinator."""

    def __init__(self, broker: "SimBroker", name: str) -> None:
        self._broker = broker
        self.name = name
        self.generation = 0
        self.rebalances = 0
        self.offsets: dict[Place, int] = {}
        self.metadata: dict[Place, str] = {}
        self.members: list[GroupMember] = []
        self.former: list[GroupMember] = []
        """Members that were expelled and may not know it."""
        self._joining: dict[GroupMember, asyncio.Future[set[Place]]] = {}
        self._timer: Any = None

    def knows(self, member: GroupMember) -> bool:
        """Return whether a commit of this member would be taken."""
        if self._broker.planned(member.process).reuses_generation:
            return True
        return member in self.members and member.generation == self.generation

    def join(self, member: GroupMember) -> asyncio.Future[set[Place]]:
        """Add or re-add a member; the future resolves when all have joined or timed out."""
        future = self._broker.loop.create_future()
        self._joining[member] = future
        if member not in self.members:
            self.members.append(member)
        if self._timer is None:
            self._timer = self._later(REBALANCE_LIMIT if self.generation else FIRST_DELAY, self._give_up_on_others)
            self._tell_others()
        if self.generation:
            self._complete_if_all_there()
        return future

    def leave(self, member: GroupMember) -> None:
        """Remove a member that leaves or whose session has expired."""
        self._joining.pop(member, None)
        if member not in self.members:
            return
        self.members.remove(member)
        self.former.append(member)
        self.rebalance()
        self._complete_if_all_there()

    def rebalance(self) -> None:
        """Make all members rejoin."""
        if self._timer is None and self.members:
            self._timer = self._later(REBALANCE_LIMIT, self._give_up_on_others)
            self._tell_others()

    def heartbeat(self, member: GroupMember) -> None:
        """Answer the next heartbeat of a member that was frozen."""
        if member not in self.members or self._timer is not None:
            self._later(HEARTBEAT * self._broker.loop.chance.random(), member.hear)

    def _later(self, seconds: float, function: Any) -> Any:
        loop = self._broker.loop
        return loop.outside.run(loop.call_later, seconds, function)

    def _tell_others(self) -> None:
        for member in self.members:
            if member not in self._joining:
                self._later(HEARTBEAT * self._broker.loop.chance.random(), member.hear)

    def _give_up_on_others(self) -> None:
        for member in [member for member in self.members if member not in self._joining]:
            self.members.remove(member)
            self.former.append(member)
        self._complete_if_all_there()
        if self._timer is not None and not self.members:
            self._timer = None

    def _complete_if_all_there(self) -> None:
        if self._timer is None or not self.members or len(self._joining) < len(self.members):
            return
        self._timer.cancel()
        self._timer = None
        self.generation += 1
        self.rebalances += 1
        joining, self._joining = self._joining, {}
        chance = self._broker.loop.chance
        members = sorted(self.members, key=lambda member: member.name)
        if chance.random() < 0.5:  # noqa: PLR2004 - a coin: who gets which partitions changes from time to time
            members.reverse()
        for member, future in joining.items():
            member.generation = self.generation
            if not future.done():
                future.set_result(self._share(members, member))

    def _share(self, members: list[GroupMember], member: GroupMember) -> set[Place]:
        """Return a member its range of each topic."""
        index, count = members.index(member), len(members)
        each, extra = divmod(self._broker.partitions, count)
        first = index * each + min(index, extra)
        last = first + each + (index < extra)
        return {(topic, number) for topic in member.topics for number in range(first, last)}


class SimBroker:
    """One broker: topics of `partitions` partitions each, made when they are first written to."""

    def __init__(self, loop: SimLoop, partitions: int) -> None:
        self.loop = loop
        self.partitions = partitions
        self.logs: dict[str, list[list[Record]]] = {}
        self.groups: dict[str, Group] = {}
        self.down_until = 0.0
        self.clock_offset = 0.0
        self._moods: dict[str, PlannedFailures] = {}
        self._partitions: dict[bytes, int] = {}
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self.appended: Callable[[Record], None] = lambda _: None

    @property
    def down(self) -> bool:
        """Return whether it answers nobody now."""
        return self.loop.time() < self.down_until

    def planned(self, process: Process) -> PlannedFailures:
        """Return the failures planned for a process."""
        return self._moods.setdefault(process.name, PlannedFailures())

    def now_ms(self) -> int:
        """Return the broker's time, milliseconds since 1970."""
        return EPOCH_NS // 1_000_000 + int((self.loop.time() + self.clock_offset) * 1000)

    def log(self, topic: str, partition: int) -> list[Record]:
        """Return the records of a partition."""
        logs = self.logs.get(topic)
        if logs is None:
            logs = self.logs[topic] = [[] for _ in range(self.partitions)]
        return logs[partition]

    def partition_for(self, key: bytes) -> int:
        """Return the partition of a key."""
        partition = self._partitions.get(key)
        if partition is None:
            partition = self._partitions[key] = partition_of(key, self.partitions)
        return partition

    def append(self, topic: str, key: bytes, value: bytes, headers: Sequence[Header]) -> Record:
        """Append a record to its topic and wake waiting consumers."""
        partition = self.partition_for(key)
        log = self.log(topic, partition)
        record = Record(topic, partition, len(log), self.now_ms(), key, value, headers)
        log.append(record)
        self.appended(record)
        for listener in self._listeners.get(topic, ()):
            listener()
        return record

    def listen(self, topics: Collection[str], listener: Callable[[], None]) -> None:
        """Call `listener` at each append to these topics."""
        for topic in topics:
            self._listeners.setdefault(topic, []).append(listener)

    def ranges(self, places: Collection[Place]) -> dict[Place, tuple[int, int]]:
        """Return the first and the next offset of each partition."""
        return {place: (0, len(self.log(*place))) for place in places}

    def group(self, name: str) -> Group:
        """Return a consumer group."""
        if name not in self.groups:
            self.groups[name] = Group(self, name)
        return self.groups[name]

    def committed(self, group: str) -> Mapping[Place, int]:
        """Return a group's own offsets."""
        return self.group(group).offsets
