"""Simulated Kafka clients of one process: consumer, producer, and the inspector that the guard uses."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

from aiokafka.errors import OutOfOrderSequenceNumber, RequestTimedOutError

from tradesaga.consumers.testing.simulation.broker import PlannedFailures, SimBroker
from tradesaga.consumers.testing.simulation.loop import Process
from tradesaga.infra.kafka.codec import Outgoing, Record, checksum
from tradesaga.infra.kafka.connections import KafkaUnavailableError, Partition
from tradesaga.infra.kafka.consumer import Polled, Wants
from tradesaga.infra.kafka.inspector import Committed, TopicState
from tradesaga.schemas.envelope import Header

FETCH_WAIT: Final = 0.03
"""Seconds for which the broker may wait for more records before it answers a fetch."""
REQUEST_LIMIT: Final = 1.5
"""Seconds after which a producer fails a request to an unavailable broker."""

_Sent = tuple[str, bytes, bytes, Sequence[Header], asyncio.Future[Any]]
Callback = Callable[[], Awaitable[None]]


class _Client:
    """A client of a process; its requests fail if the process is dead or the broker unavailable."""

    def __init__(self, broker: SimBroker, process: Process) -> None:
        self.process = process
        self._broker = broker

    async def _request(self) -> None:
        await asyncio.sleep(0)
        await self._connect()

    async def _connect(self) -> None:
        self.process.check()
        if self._broker.down:
            await asyncio.sleep(0.2)
            raise KafkaUnavailableError("no broker answers")


class SimConsumer(_Client):
    """A member of a group. The group fences its commits, but not its fetches."""

    def __init__(
        self, broker: SimBroker, process: Process, group: str, topics: Collection[str], *, name: str, session_ms: int
    ) -> None:
        super().__init__(broker, process)
        self.name = name
        self.topics = sorted(topics)
        self.session = session_ms / 1000
        self.generation = -1
        self._group = broker.group(group)
        self._assigned: set[Partition] = set()
        self._positions: dict[Partition, int] = {}
        self._delivering = asyncio.Event()
        self._rejoin = asyncio.Event()
        self._waiting: asyncio.Future[None] | None = None
        self._coordinating: asyncio.Task[None] | None = None

    @property
    def planned(self) -> PlannedFailures:
        """Return the failures planned for this process."""
        return self._broker.planned(self.process)

    async def start(self, on_revoked: Callback, on_assigned: Callback) -> None:
        """Join the group; return at the first assignment, which may be before its callback."""
        await self._connect()
        self._broker.listen(self.topics, self._wake)
        self._coordinating = asyncio.create_task(self._coordinate(on_revoked, on_assigned))
        await self._delivering.wait()

    async def stop(self) -> None:
        """Leave the group."""
        self.process.check()
        if self._coordinating is not None:
            self._coordinating.cancel()
            await asyncio.wait([self._coordinating])
        self._group.leave(self)

    def request_rejoin(self) -> None:
        """Tell the member at a heartbeat to rejoin."""
        self._rejoin.set()

    def expire(self) -> None:
        """Expire the session; the member does not notice."""
        self._group.leave(self)

    def resume(self) -> None:
        """Resume after a freeze: the next heartbeat tells the member to rejoin if the group has changed."""
        self._group.heartbeat(self)

    async def _coordinate(self, on_revoked: Callback, on_assigned: Callback) -> None:
        planned = self.planned
        while True:
            self._delivering.clear()
            await _call(on_revoked)
            self.process.check()
            self._rejoin.clear()
            self._assigned = await self._group.join(self)
            self._positions = {place: self._group.offsets.get(place, 0) for place in sorted(self._assigned)}
            self._delivering.set()
            late, planned.callback_late = planned.callback_late, 0.0
            await asyncio.sleep(late)
            await _call(on_assigned)
            await self._rejoin.wait()
            planned.reuses_generation = False

    def assignment(self) -> set[Partition]:
        """Return the partitions that this member believes to have."""
        return set(self._assigned)

    def seek(self, place: Partition, offset: int) -> None:
        """Continue reading at `offset`. Raises `KafkaUnavailableError` for a partition that is not assigned."""
        if place not in self._assigned:
            raise KafkaUnavailableError(f"{place} is assigned to another member now")
        self._positions[place] = offset

    async def poll(self, wants: Wants, timeout_ms: int, limit: int) -> dict[Partition, Polled]:
        """Wait for records; during a rebalance until its end."""
        self.process.check()
        until = self._broker.loop.time() + timeout_ms / 1000
        while True:
            await self._delivering.wait()
            self.process.check()
            if self.planned.fetch_fails:
                self._fail_fetch()
            found = {} if self._broker.down else self._take(wants, limit)
            left = until - self._broker.loop.time()
            if found or left <= 0:
                return found
            await self._pause(left)
            self.process.check()

    def _fail_fetch(self) -> None:
        """Fail after some records have been skipped, which are not delivered again."""
        self.planned.fetch_fails -= 1
        for place, position in self._positions.items():
            end = len(self._broker.log(*place))
            self._positions[place] = min(end, position + self._broker.loop.chance.randrange(3))
        raise KafkaUnavailableError("the fetch failed")

    def _take(self, wants: Wants, limit: int) -> dict[Partition, Polled]:
        found: dict[Partition, Polled] = {}
        for place, position in self._positions.items():
            records = self._broker.log(*place)[position : position + limit]
            if records:
                limit -= len(records)
                last = records[-1]
                self._positions[place] = last.offset + 1
                seen = checksum(last.offset, last.recorded_ms, last.key, last.value)
                wanted = [record for record in records if wants(record.topic, record.headers)]
                found[place] = Polled(last.offset + 1, wanted, seen)
            if limit <= 0:
                break
        return found

    async def _pause(self, seconds: float) -> None:
        loop = self._broker.loop
        self._waiting = future = loop.create_future()
        timer = loop.call_later(seconds, _release, future)
        try:
            await future
        finally:
            timer.cancel()
            self._waiting = None

    def _wake(self) -> None:
        """End the pause after a moment, so that one fetch brings all records until then."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            loop = self._broker.loop
            loop.after(FETCH_WAIT * loop.chance.random(), _release, waiting)

    def behind(self, offsets: Mapping[Partition, int]) -> int:
        """Return the number of records from these offsets to the ends."""
        return sum(max(0, len(self._broker.log(*place)) - offset) for place, offset in offsets.items())

    def held_back(self, offsets: Mapping[Partition, int]) -> dict[Partition, int]:  # noqa: ARG002 - no client opens a transaction
        """Return no offsets: no client opens a transaction."""
        return {}

    async def ranges(self, places: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return the first and the next offset of each partition. Raises `KafkaUnavailableError`."""
        await self._request()
        return self._broker.ranges(places)

    async def commit(self, offsets: Mapping[Partition, int], metadata: str = "") -> bool:
        """Commit offsets. Returns False if the group does not know this member, or not in this generation."""
        if not offsets:
            return True
        await asyncio.sleep(0)
        self.process.check()
        if self._broker.down or not offsets.keys() <= self._assigned or not self._group.accepts(self):
            return False
        self._group.offsets.update(offsets)
        self._group.metadata.update(dict.fromkeys(offsets, metadata))
        return True


def _release(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)


async def _call(listener: Callback) -> None:
    with suppress(Exception):  # as aiokafka, which logs it
        await listener()


class SimProducer(_Client):
    """An idempotent producer of one process."""

    def __init__(self, broker: SimBroker, process: Process) -> None:
        super().__init__(broker, process)
        self._buffer: list[_Sent] = []
        self._flushing = False
        self._poisoned: set[tuple[str, int]] = set()

    async def start(self) -> None:
        """Connect. Raises `KafkaUnavailableError`."""
        await self._request()

    async def stop(self) -> None:
        """Send the buffered records and disconnect."""
        await asyncio.sleep(0)
        self.process.check()
        if not self._broker.down:
            self._flush()

    async def send_all(self, records: Sequence[Outgoing]) -> list[asyncio.Future[Any]]:
        """Queue records."""
        return [await self.send(each.topic, each.key.encode(), each.value, each.headers) for each in records]

    async def send(self, topic: str, key: bytes, value: bytes, headers: Sequence[Header]) -> asyncio.Future[Any]:
        """Queue one record."""
        if self.process.frozen:
            await asyncio.sleep(0)
        self.process.check()
        loop = self._broker.loop
        future = loop.create_future()
        self._buffer.append((topic, key, value, headers, future))
        if not self._flushing:
            self._flushing = True
            loop.after(0.001 + 0.02 * loop.chance.random() ** 4, self._flush)
        return future

    def _flush(self) -> None:
        """Send the buffered records. A dead process sends them half of the time: its last packets may have left."""
        self._flushing = False
        loop = self._broker.loop
        buffer, self._buffer = self._buffer, []
        if self.process.dead and loop.chance.random() < 0.5:  # noqa: PLR2004 - a coin
            return
        if self._broker.down:
            self._poisoned |= {(topic, self._broker.partition_for(key)) for topic, key, *_ in buffer}
            loop.after(REQUEST_LIMIT, _acknowledge, [(sent[4], None) for sent in buffer])
            return
        planned = self._broker.planned(self.process).acks
        acks = [(sent[4], self._append(sent, planned)) for sent in buffer]
        loop.after(0.001 + 0.03 * loop.chance.random() ** 4, _acknowledge, acks)

    def _append(self, sent: _Sent, planned: list[str]) -> Record | None:
        topic, key, value, headers, _ = sent
        place = (topic, self._broker.partition_for(key))
        if place in self._poisoned:
            return None
        failure = planned.pop(0) if planned else ""
        if failure == "failed":
            self._poisoned.add(place)
            return None
        record = self._broker.append(topic, key, value, headers)
        if failure == "twice":
            self._broker.append(topic, key, value, headers)
        if failure == "lost":
            self._poisoned.add(place)
            return None
        return record


def _acknowledge(acks: list[tuple[asyncio.Future[Any], Record | None]]) -> None:
    failed = 0
    for future, record in acks:
        if future.done():
            continue
        if record is None:
            future.set_exception(OutOfOrderSequenceNumber() if failed else RequestTimedOutError())
            failed += 1
        else:
            future.set_result(record)


class SimInspector(_Client):
    """The inspector of one process."""

    def now(self) -> int:
        """Return the broker's time in nanoseconds since 1970."""
        return self._broker.now_ms() * 1_000_000

    async def topics(self, names: Collection[str]) -> dict[str, TopicState]:
        """Return the topics. Every name is a topic: the broker creates topics when they are used."""
        await self._request()
        return {name: TopicState(uuid5(NAMESPACE_OID, name), self._broker.partitions) for name in names}

    async def committed(self, groups: Collection[str]) -> dict[str, dict[Partition, Committed]]:
        """Return the committed offsets by group."""
        await self._request()
        found = {name: self._broker.group(name) for name in groups}
        return {
            name: {place: Committed(offset, group.metadata[place]) for place, offset in group.offsets.items()}
            for name, group in found.items()
        }

    async def ranges(self, places: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return the first and the next offset of each partition."""
        await self._request()
        return self._broker.ranges(places)

    async def read(
        self, ranges: Mapping[Partition, tuple[int, int]], *, first: bool = False
    ) -> dict[Partition, list[Record]]:
        """Return the records of each range; the simulated logs have no gaps."""
        await self._request()
        return {
            place: self._broker.log(*place)[start : start + 1 if first else end]
            for place, (start, end) in ranges.items()
        }

    async def scan(self, ranges: Mapping[Partition, tuple[int, int]]) -> AsyncGenerator[list[Record]]:
        """Yield the records of each range."""
        for records in (await self.read(ranges)).values():
            yield records

    async def append(self, topic: str, key: bytes, value: bytes) -> None:
        """Append one record to partition 0."""
        await self._request()
        log = self._broker.log(topic, 0)
        log.append(Record(topic, 0, len(log), self._broker.now_ms(), key, value, ()))


class SimClients(_Client):
    """Makes the clients of one process."""

    def producer(self, client_id: str) -> SimProducer:  # noqa: ARG002 - the process identifies the client
        """Make a producer."""
        return SimProducer(self._broker, self.process)

    def consumer(self, group: str, topics: Collection[str], client_id: str, session_ms: int) -> SimConsumer:
        """Make a member of a group."""
        return SimConsumer(self._broker, self.process, group, topics, name=client_id, session_ms=session_ms)

    @asynccontextmanager
    async def inspector(self) -> AsyncGenerator[SimInspector]:
        """Make an inspector."""
        yield SimInspector(self._broker, self.process)
