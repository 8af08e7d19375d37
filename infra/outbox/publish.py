"""Publishes outbox rows in order; the watermark covers only rows acknowledged without a gap."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Self

from tradesaga.infra.failpoints import Failpoint, reach
from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.kafka.errors import KafkaUnavailableError
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.outbox_rows import OutboxRow
from tradesaga.infra.outbox.ports import Brokers, make_producer

UNACKED_LIMIT = 20_000
"""Unacknowledged rows at which writing pauses."""
UNACKED_BYTES = 32 * 1024 * 1024
"""Bytes of unacknowledged rows at which writing pauses."""


class PublishError(Exception):
    """The broker rejected a record or did not confirm it: discard the producer and acquire the lanes again."""


class Publisher:
    """Publishes rows in order through one producer.

    A publisher that has failed is not repaired: its owner closes it and makes another.
    """

    def __init__(self, brokers: Brokers, client_id: str, lanes: Iterable[Lane]) -> None:
        self._producer = make_producer(brokers, client_id)
        self._lanes = {lane.id: lane for lane in lanes}
        self._sent: deque[tuple[Sequence[OutboxRow], Sequence[asyncio.Future[Any]], int]] = deque()
        self._unacked = 0
        self._bytes = 0
        self._changed = asyncio.Event()
        self._acks: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._producer.start()
        self._acks = asyncio.create_task(self._follow_acks(), name="acks")
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._acks is not None:
                self._acks.cancel()
                await asyncio.wait([self._acks])
        finally:
            for ack in (ack for _, acks, _ in self._sent for ack in acks):
                if not ack.cancel() and not ack.cancelled():
                    ack.exception()  # retrieved, so that asyncio does not log it
            await self._producer.stop()

    @property
    def failure(self) -> BaseException | None:
        """The error that stopped the publisher, None while it works."""
        if self._acks is None or not self._acks.done() or self._acks.cancelled():
            return None
        return self._acks.exception()

    async def publish(self, rows: Sequence[OutboxRow]) -> None:
        """Send committed rows in order; returns once they are queued, not once they are acknowledged.

        Raises `PublishError` if an earlier row has failed.
        """
        self._check()
        by_lane: dict[int, list[OutboxRow]] = {}
        for row in rows:
            by_lane.setdefault(row.lane, []).append(row)
        for own in by_lane.values():
            self._follow(own, await self._send([row.record for row in own]))

    def _follow(self, rows: Sequence[OutboxRow], acks: Sequence[asyncio.Future[Any]]) -> None:
        size = sum(row.record.size for row in rows)
        self._sent.append((rows, acks, size))
        self._unacked += len(rows)
        self._bytes += size
        self._changed.set()

    async def room(self) -> None:
        """Wait until the unacknowledged rows and bytes are below their limits."""
        while self._unacked > UNACKED_LIMIT or self._bytes > UNACKED_BYTES:
            self._check()
            await asyncio.sleep(0.005)
        self._check()

    async def drain(self) -> None:
        """Wait until every row is acknowledged. Raises `PublishError`."""
        while self._sent:
            self._check()
            await asyncio.sleep(0.005)
        self._check()

    def _check(self) -> None:
        if self.failure is not None:
            raise PublishError(f"publishing failed: {self.failure}") from self.failure

    async def _send(self, records: Sequence[Outgoing]) -> Sequence[asyncio.Future[Any]]:
        reach(Failpoint.IN_PUBLISH)
        try:
            return await self._producer.send_all(records)
        except KafkaUnavailableError as error:
            raise PublishError(str(error)) from error

    async def _follow_acks(self) -> None:
        while True:
            while self._sent:
                rows, acks, size = self._sent[0]
                for row, ack in zip(rows, acks, strict=True):
                    await ack
                    self._lanes[row.lane].acked_seq = row.seq
                self._sent.popleft()
                self._unacked -= len(rows)
                self._bytes -= size
            self._changed.clear()
            await self._changed.wait()
