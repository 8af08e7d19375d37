"""A producer: it keeps the order of each partition, and once it has failed it is poisoned, as aiokafka's is."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import OutOfOrderSequenceNumber, RequestTimedOutError

from tradesaga.consumers.testing.simulation.loop import Process, ProcessGoneError
from tradesaga.infra.kafka.codec import Outgoing, Record
from tradesaga.infra.kafka.errors import KafkaUnavailableError
from tradesaga.schemas.envelope import Header

if TYPE_CHECKING:
    from tradesaga.consumers.testing.simulation.broker import SimBroker

REQUEST_LIMIT: Final = 1.5
"""Seconds for which a producer waits for a broker that does not answer."""

_Sent = tuple[str, bytes, bytes, Sequence[Header], "asyncio.Future[Any]"]


class SimProducer:
    """An idempotent producer of one process."""

    def __init__(self, broker: "SimBroker", process: Process) -> None:
        self._broker = broker
        self._process = process
        self._buffer: list[_Sent] = []
        self._flushing = False
        self._poisoned: set[tuple[str, int]] = set()

    async def start(self) -> None:
        """Connect. Raises `KafkaUnavailableError`."""
        await asyncio.sleep(0)
        self._check()
        if self._broker.down:
            await asyncio.sleep(0.2)
            raise KafkaUnavailableError("no broker answers")

    async def stop(self) -> None:
        """Send what is buffered and disconnect."""
        await asyncio.sleep(0)
        self._check()
        if not self._broker.down:
            self._flush()

    async def send_all(self, records: Sequence[Outgoing]) -> "list[asyncio.Future[Any]]":
        """Queue records."""
        return [await self.send(each.topic, each.key.encode(), each.value, each.headers) for each in records]

    async def send(self, topic: str, key: bytes, value: bytes, headers: Sequence[Header]) -> "asyncio.Future[Any]":
        """Queue one record."""
        if self._process.frozen:
            await asyncio.sleep(0)
        self._check()
        loop = self._broker.loop
        future = loop.create_future()
        self._buffer.append((topic, key, value, headers, future))
        if not self._flushing:
            self._flushing = True
            delay = 0.001 + 0.02 * loop.chance.random() ** 4
            loop.outside.run(loop.call_later, delay, self._flush)
        return future

    def _check(self) -> None:
        if self._process.dead:
            raise ProcessGoneError

    def _flush(self) -> None:
        """Put on the wire what is buffered; of a process that has died, perhaps: the last packets may have left."""
        self._flushing = False
        loop = self._broker.loop
        buffer, self._buffer = self._buffer, []
        if self._process.dead and loop.chance.random() < 0.5:  # noqa: PLR2004 - a coin
            return
        if self._broker.down:
            self._poisoned |= {(topic, self._broker.home(key)) for topic, key, *_ in buffer}
            loop.outside.run(loop.call_later, REQUEST_LIMIT, _fail, buffer)
            return
        mood = self._broker.mood(self._process)
        acks = [(sent[4], self._append(sent, mood.acks)) for sent in buffer]
        loop.outside.run(loop.call_later, 0.001 + 0.03 * loop.chance.random() ** 4, _acknowledge, acks)

    def _append(self, sent: _Sent, moods: list[str]) -> Record | None:
        topic, key, value, headers, _ = sent
        place = (topic, self._broker.home(key))
        if place in self._poisoned:
            return None
        mood = moods.pop(0) if moods else ""
        if mood == "failed":
            self._poisoned.add(place)
            return None
        record = self._broker.append(topic, key, value, headers)
        if mood == "twice":
            self._broker.append(topic, key, value, headers)
        if mood == "lost":
            self._poisoned.add(place)
            return None
        return record


def _acknowledge(acks: list[tuple["asyncio.Future[Any]", Record | None]]) -> None:
    failed = 0
    for future, record in acks:
        if future.done():
            continue
        if record is None:
            future.set_exception(OutOfOrderSequenceNumber() if failed else RequestTimedOutError())
            failed += 1
        else:
            future.set_result(record)


def _fail(buffer: list[_Sent]) -> None:
    _acknowledge([(sent[4], None) for sent in buffer])
