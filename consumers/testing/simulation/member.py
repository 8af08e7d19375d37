"""A consumer: it delivers before it tells of an assignment, fetches though expelled, and may lose a poll."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from tradesaga.consumers.testing.simulation.loop import Process, ProcessGoneError
from tradesaga.infra.kafka.codec import checksum
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.kafka.consumer import Polled, Wants
from tradesaga.infra.kafka.errors import KafkaUnavailableError

if TYPE_CHECKING:
    from tradesaga.consumers.testing.simulation.broker import Moods, SimBroker


FETCH_WAIT: Final = 0.03
"""Seconds for which the broker may wait for more before it answers a fetch."""


class SimConsumer:
    """A member of a group. Fetching is never fenced by the group: only commits are."""

    def __init__(
        self, broker: "SimBroker", process: Process, group: str, topics: Collection[str], *, name: str, session_ms: int
    ) -> None:
        self.name = name
        self.topics = sorted(topics)
        self.process = process
        self.session = session_ms / 1000
        self.generation = -1
        self._broker = broker
        self._group = broker.group(group)
        self._assigned: set[Place] = set()
        self._positions: dict[Place, int] = {}
        self._delivering = asyncio.Event()
        self._rejoin = asyncio.Event()
        self._waiting: asyncio.Future[None] | None = None
        self._coordinating: asyncio.Task[None] | None = None

    @property
    def broker_mood(self) -> "Moods":
        """Give what the broker has in store for this process."""
        return self._broker.mood(self.process)

    async def start(
        self, on_revoked: Callable[[], Awaitable[None]], on_assigned: Callable[[], Awaitable[None]]
    ) -> None:
        """Join the group; returns once there is an assignment, whether or not it has been told of."""
        self._check()
        if self._broker.down:
            await asyncio.sleep(0.2)
            raise KafkaUnavailableError("no broker answers")
        self._broker.listen(self.topics, self._wake)
        self._coordinating = asyncio.create_task(self._coordinate(on_revoked, on_assigned))
        await self._delivering.wait()

    async def stop(self) -> None:
        """Leave the group."""
        self._check()
        if self._coordinating is not None:
            self._coordinating.cancel()
            await asyncio.wait([self._coordinating])
        self._group.leave(self)

    def hear(self) -> None:
        """Learn at a heartbeat that the group wants this member to join anew."""
        self._rejoin.set()

    def expire(self) -> None:
        """Be expelled, for no heartbeat has come; the member itself does not know."""
        self._group.leave(self)

    def resume(self) -> None:
        """Go on after standing still; the next heartbeat tells what has happened meanwhile."""
        self._group.heartbeat(self)

    async def _coordinate(
        self, on_revoked: Callable[[], Awaitable[None]], on_assigned: Callable[[], Awaitable[None]]
    ) -> None:
        while True:
            self._delivering.clear()
            await _tell(on_revoked)
            self._check()
            self._rejoin.clear()
            assigned = await self._group.join(self)
            committed = self._group.offsets
            self._assigned = assigned
            self._positions = {place: committed.get(place, 0) for place in sorted(assigned)}
            self._delivering.set()
            mood = self.broker_mood
            late, mood.callback_late = mood.callback_late, 0.0
            await asyncio.sleep(late)
            await _tell(on_assigned)
            await self._rejoin.wait()
            self.broker_mood.reuses_generation = False

    def assignment(self) -> set[Place]:
        """Give the partitions that this member believes to be its own."""
        return set(self._assigned)

    def seek(self, place: Place, offset: int) -> None:
        """Read on from `offset`. Raises `KafkaUnavailableError` if not assigned."""
        if place not in self._assigned:
            raise KafkaUnavailableError(f"{place} is assigned to another member now")
        self._positions[place] = offset

    async def poll(self, wants: Wants, timeout_ms: int, limit: int) -> dict[Place, Polled]:
        """Wait for records; during a rebalance for as long as that takes."""
        self._check()
        until = self._broker.loop.time() + timeout_ms / 1000
        while True:
            await self._delivering.wait()
            self._check()
            if self.broker_mood.fetch_fails:
                self._lose()
            found = {} if self._broker.down else self._take(wants, limit)
            left = until - self._broker.loop.time()
            if found or left <= 0:
                return found
            await self._pause(left)
            self._check()

    def _lose(self) -> None:
        """Fail after part of what was fetched has been passed: those records are not delivered again."""
        self.broker_mood.fetch_fails -= 1
        for place, position in self._positions.items():
            end = len(self._broker.log(*place))
            self._positions[place] = min(end, position + self._broker.loop.chance.randrange(3))
        raise KafkaUnavailableError("the fetch failed")

    def _take(self, wants: Wants, limit: int) -> dict[Place, Polled]:
        found: dict[Place, Polled] = {}
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
        """Bring what has come in a moment, with what comes until then."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            loop = self._broker.loop
            loop.outside.run(loop.call_later, FETCH_WAIT * loop.chance.random(), _release, waiting)

    def behind(self, offsets: Mapping[Place, int]) -> int:
        """Count the records from these offsets to the ends."""
        return sum(max(0, len(self._broker.log(*place)) - offset) for place, offset in offsets.items())

    def held_back(self, offsets: Mapping[Place, int]) -> dict[Place, int]:  # noqa: ARG002 - no transactions here
        """Return nothing: nobody opens a transaction."""
        return {}

    async def ranges(self, places: Collection[Place]) -> dict[Place, tuple[int, int]]:
        """Ask for the first and the next offset of each partition. Raises `KafkaUnavailableError`."""
        await asyncio.sleep(0)
        self._check()
        if self._broker.down:
            await asyncio.sleep(0.2)
            raise KafkaUnavailableError("no broker answers")
        return self._broker.ranges(places)

    async def commit(self, offsets: Mapping[Place, int], metadata: str = "") -> bool:
        """Tell the group how far we are. False if it does not know this member, or not with this generation."""
        if not offsets:
            return True
        await asyncio.sleep(0)
        self._check()
        if self._broker.down or not offsets.keys() <= self._assigned or not self._group.knows(self):
            return False
        self._group.offsets.update(offsets)
        self._group.metadata.update(dict.fromkeys(offsets, metadata))
        return True

    def _check(self) -> None:
        if self.process.dead:
            raise ProcessGoneError


def _release(future: "asyncio.Future[Any]") -> None:
    if not future.done():
        future.set_result(None)


async def _tell(listener: Callable[[], Awaitable[None]]) -> None:
    """Call a listener; as aiokafka does, go on whatever it raises."""
    try:
        await listener()
    except Exception:  # noqa: BLE001 - aiokafka logs it and goes on
        return
