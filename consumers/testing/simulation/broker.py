"""A simulated Kafka broker in memory: logs, consumer groups, rebalances, and planned failures of its clients."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from tradesaga.consumers.testing.simulation.loop import Process, SimLoop
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.schemas.envelope import Header

EPOCH_NS: Final = 1_790_000_000_000_000_000
"""Nanoseconds since 1970 at which every simulation starts."""

HEARTBEAT: Final = 0.4
"""Seconds within which a member learns of a rebalance, or of its own expulsion."""
FIRST_DELAY: Final = 0.3
"""Seconds for which a new group waits for its first members."""
REBALANCE_LIMIT: Final = 4.0
"""Seconds for which a rebalance waits for its members."""


@dataclass(slots=True)
class PlannedFailures:
    """The next failures of the clients of one process; each occurs once."""

    acks: list[str] = field(default_factory=list[str])
    """For each record to send: `lost` (appended without an answer), `failed` (not appended), `twice` or empty."""
    fetch_fails: int = 0
    callback_late: float = 0.0
    """Seconds between the first delivery of records and the callback for the assignment."""
    reuses_generation: bool = False
    """Commits of an expelled member are accepted, because the number of its generation is in use again."""


class GroupMember(Protocol):
    """A member, as its group sees it."""

    name: str
    topics: list[str]
    generation: int
    process: Process

    def request_rejoin(self) -> None:
        """Tell the member at a heartbeat to rejoin."""
        ...


class Group:
    """One consumer group at its coordinator."""

    def __init__(self, broker: "SimBroker", name: str) -> None:
        self._broker = broker
        self.name = name
        self.generation = 0
        self.rebalances = 0
        self.offsets: dict[Partition, int] = {}
        self.metadata: dict[Partition, str] = {}
        self.members: list[GroupMember] = []
        self.former: list[GroupMember] = []
        """Members that were expelled, and may not know it yet."""
        self._joining: dict[GroupMember, asyncio.Future[set[Partition]]] = {}
        self._timer: Any = None

    def accepts(self, member: GroupMember) -> bool:
        """Return whether a commit of this member would be accepted."""
        if self._broker.planned(member.process).reuses_generation:
            return True
        return member in self.members and member.generation == self.generation

    def join(self, member: GroupMember) -> asyncio.Future[set[Partition]]:
        """Add or re-add a member; the future resolves when all have joined or timed out."""
        future = self._broker.loop.create_future()
        self._joining[member] = future
        if member not in self.members:
            self.members.append(member)
        if self._timer is None:
            self._begin_rebalance(REBALANCE_LIMIT if self.generation else FIRST_DELAY)
        if self.generation:
            self._complete_if_all_there()
        return future

    def leave(self, member: GroupMember) -> None:
        """Remove a member that leaves, or whose session has expired."""
        self._joining.pop(member, None)
        if member not in self.members:
            return
        self._expel(member)
        self.rebalance()
        self._complete_if_all_there()

    def rebalance(self) -> None:
        """Make all members rejoin."""
        if self._timer is None and self.members:
            self._begin_rebalance(REBALANCE_LIMIT)

    def heartbeat(self, member: GroupMember) -> None:
        """Answer the next heartbeat of a member that was frozen: it rejoins if the group has changed."""
        if member not in self.members or self._timer is not None:
            self._request_rejoin(member)

    def _begin_rebalance(self, limit: float) -> None:
        self._timer = self._broker.loop.after(limit, self._expel_absent)
        for member in self._absent():
            self._request_rejoin(member)

    def _request_rejoin(self, member: GroupMember) -> None:
        loop = self._broker.loop
        loop.after(HEARTBEAT * loop.chance.random(), member.request_rejoin)

    def _absent(self) -> list[GroupMember]:
        return [member for member in self.members if member not in self._joining]

    def _expel(self, member: GroupMember) -> None:
        self.members.remove(member)
        self.former.append(member)

    def _expel_absent(self) -> None:
        for member in self._absent():
            self._expel(member)
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
        if chance.random() < 0.5:  # noqa: PLR2004 - a coin: the members do not always get the same partitions
            members.reverse()
        for member, future in joining.items():
            member.generation = self.generation
            if not future.done():
                future.set_result(self._share(members, member))

    def _share(self, members: list[GroupMember], member: GroupMember) -> set[Partition]:
        """Return the partitions of a member: a range of each topic."""
        index, count = members.index(member), len(members)
        each, extra = divmod(self._broker.partitions, count)
        first = index * each + min(index, extra)
        last = first + each + (index < extra)
        return {(topic, number) for topic in member.topics for number in range(first, last)}


class SimBroker:
    """One broker. Its topics have `partitions` partitions each, and are created when they are first used."""

    def __init__(self, loop: SimLoop, partitions: int) -> None:
        self.loop = loop
        self.partitions = partitions
        self.logs: dict[str, list[list[Record]]] = {}
        self.groups: dict[str, Group] = {}
        self.down_until = 0.0
        self.clock_offset = 0.0
        self._planned: dict[str, PlannedFailures] = {}
        self._partitions: dict[bytes, int] = {}
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self.appended: Callable[[Record], None] = lambda _: None

    @property
    def down(self) -> bool:
        """Return whether the broker is unavailable now."""
        return self.loop.time() < self.down_until

    def planned(self, process: Process) -> PlannedFailures:
        """Return the failures planned for a process."""
        return self._planned.setdefault(process.name, PlannedFailures())

    def now_ms(self) -> int:
        """Return the broker's time in milliseconds since 1970."""
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

    def ranges(self, places: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return the first and the next offset of each partition."""
        return {place: (0, len(self.log(*place))) for place in places}

    def group(self, name: str) -> Group:
        """Return a consumer group."""
        if name not in self.groups:
            self.groups[name] = Group(self, name)
        return self.groups[name]

    def committed(self, group: str) -> Mapping[Partition, int]:
        """Return the committed offsets of a group."""
        return self.group(group).offsets
