"""Publishing of outbox rows, in order; the watermark covers only rows acknowledged without a gap."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import UUID

import structlog

from tradesaga.infra.failpoints import Failpoint, reach
from tradesaga.infra.kafka.codec import Outgoing, load_headers
from tradesaga.infra.kafka.connections import KafkaUnavailableError
from tradesaga.infra.outbox import lane_rows
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.outbox_rows import OutboxRow
from tradesaga.infra.outbox.ports import Brokers, make_producer
from tradesaga.infra.outbox.processor import InDoubtError
from tradesaga.infra.postgres.database import DATABASE_ERRORS, Connection
from tradesaga.infra.telemetry import metrics

UNACKED_LIMIT = 20_000
"""Unacknowledged rows at which writing pauses."""
UNACKED_BYTES = 32 * 1024 * 1024
"""Bytes of unacknowledged rows at which writing pauses."""


class PublishError(Exception):
    """The broker rejected a record or did not confirm it: discard the producer and acquire the lanes again."""


SESSION_ERRORS = (InDoubtError, PublishError, KafkaUnavailableError, *DATABASE_ERRORS)
"""Errors that end a session; the next one may succeed."""


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


_SET_ASIDE: Final = """
INSERT INTO parked ("group", topic, partition, "offset", saga_id, reason, recorded_at, headers, value)
SELECT l."group" || ' outbox', o.aggregatetype, -l.id, o.seq, $3, $4, clock_timestamp(), o.headers, o.payload
FROM outbox o JOIN lane l ON l.id = o.lane WHERE o.lane = $1 AND o.seq = $2
RETURNING "group"
"""

_FIND: Final = """
SELECT topic, headers, value, released FROM parked WHERE partition = -$1::int AND "offset" = $2
"""

_RESENT: Final = """
UPDATE parked SET released = 'retry', released_at = clock_timestamp() WHERE partition = -$1::int AND "offset" = $2
"""


async def set_aside(sql: Connection, lane: Lane, row: OutboxRow, why: BaseException) -> None:
    """Park the lane's first unpublished row and skip it, in one transaction. Raises `InDoubtError` when fenced."""
    lane.acked_seq = row.seq
    what = f"the broker rejects outbox row {row.lane}/{row.seq}: {type(why).__name__}"
    reason = f"{what}; once it accepts it, run `tradesaga resend {row.lane} {row.seq}`"
    async with sql.transaction():
        if not await lane_rows.advance(sql, [lane]):
            raise InDoubtError("another owner has acquired the lane")
        group = await sql.fetchval(_SET_ASIDE, row.lane, row.seq, _saga_id(row.record.key), reason)
    metrics.PARKED.labels(group).inc()
    structlog.get_logger("publisher").error(
        "outbox row parked", topic=row.record.topic, saga_id=row.record.key, lane=row.lane, seq=row.seq, why=reason
    )


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """The record of a parked outbox row; `released` once it was published again."""

    record: Outgoing
    released: bool


async def find_rejected(sql: Connection, lane: int, seq: int) -> RejectedRow | None:
    """Return a parked outbox row, None if there is none."""
    row = await sql.fetchrow(_FIND, lane, seq)
    if row is None:
        return None
    record = Outgoing.of_stored(row["topic"], load_headers(row["headers"]), row["value"])
    return RejectedRow(record, row["released"] is not None)


async def mark_resent(sql: Connection, lane: int, seq: int) -> None:
    """Record that the row was published."""
    await sql.execute(_RESENT, lane, seq)


def _saga_id(key: str) -> UUID | None:
    try:
        return UUID(key)
    except ValueError:
        return None
