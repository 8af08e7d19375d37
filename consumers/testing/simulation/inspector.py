"""What the simulated broker knows of topics and groups, for the guard: asked, as on a real one, without joining."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, uuid5

from tradesaga.consumers.testing.simulation.loop import Process, ProcessGoneError
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.kafka.errors import KafkaUnavailableError
from tradesaga.infra.kafka.identity import Committed, TopicState

if TYPE_CHECKING:
    from tradesaga.consumers.testing.simulation.broker import SimBroker


class SimInspector:
    """Answers for a process, as long as that and the broker are there."""

    def __init__(self, broker: "SimBroker", process: Process) -> None:
        self._broker = broker
        self._process = process

    def now(self) -> int:
        """Return the time, nanoseconds since 1970."""
        return self._broker.now_ms() * 1_000_000

    async def topics(self, names: Collection[str]) -> dict[str, TopicState]:
        """Return the topics: each name is one, since they are made when they are written to."""
        await self._travel()
        return {name: TopicState(uuid5(NAMESPACE_OID, name), self._broker.partitions) for name in names}

    async def committed(self, groups: Collection[str]) -> dict[str, dict[Place, Committed]]:
        """Return the committed offsets by group."""
        await self._travel()
        found = {name: self._broker.group(name) for name in groups}
        return {
            name: {place: Committed(offset, group.metadata[place]) for place, offset in group.offsets.items()}
            for name, group in found.items()
        }

    async def ranges(self, places: Collection[Place]) -> dict[Place, tuple[int, int]]:
        """Return the first and the next offset of each partition."""
        await self._travel()
        return self._broker.ranges(places)

    async def read(self, ranges: Mapping[Place, tuple[int, int]], *, first: bool = False) -> dict[Place, list[Record]]:
        """Return the records of each range; the simulated logs have no gaps."""
        await self._travel()
        return {
            place: self._broker.log(*place)[start : start + 1 if first else end]
            for place, (start, end) in ranges.items()
        }

    async def scan(self, ranges: Mapping[Place, tuple[int, int]]) -> AsyncGenerator[list[Record]]:
        """Yield the records of each range."""
        for records in (await self.read(ranges)).values():
            yield records

    async def append(self, topic: str, key: bytes, value: bytes) -> None:
        """Append one record to partition 0."""
        await self._travel()
        log = self._broker.log(topic, 0)
        log.append(Record(topic, 0, len(log), self._broker.now_ms(), key, value, ()))

    async def _travel(self) -> None:
        await asyncio.sleep(0)
        if self._process.dead:
            raise ProcessGoneError
        if self._broker.down:
            await asyncio.sleep(0.2)
            raise KafkaUnavailableError("no broker answers")
