"""Commits of batches (pass the fence, handle records, write rows, commit, publish) and of watermarks."""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog

from tradesaga.infra.clock import elapsed
from tradesaga.infra.failpoints import Failpoint, reach
from tradesaga.infra.kafka.codec import RecordChecksum
from tradesaga.infra.outbox import lane_rows, outbox_rows
from tradesaga.infra.outbox.batch import Batch, ConflictsError, halve, last_seen, offsets, received
from tradesaga.infra.outbox.batch_writer import REDO
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.processor import InDoubtError, Processor, Received, Transaction
from tradesaga.infra.outbox.publish import Publisher, PublishError
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.metrics import Health

LEAVING = 2.0
"""Seconds that an owner waits for the broker before it gives up its lanes."""


class Watermarks:
    """The watermarks of one owner's lanes; without them the next owner would reprocess finished work."""

    def __init__(self, sql: Connection, publisher: Publisher, lanes: Sequence[Lane]) -> None:
        self._sql = sql
        self._publisher = publisher
        self._lanes = lanes
        self._saved = self._sum()

    def _sum(self) -> int:
        """Return a number that grows with every watermark."""
        return sum(lane.acked_seq + lane.next_offset for lane in self._lanes)

    async def save(self) -> None:
        """Save the watermarks if they have moved. Raises `InDoubtError` when a lane has a new owner."""
        moved = self._sum()
        if moved == self._saved:
            return
        reach(Failpoint.BEFORE_MARK)
        alive = await lane_rows.advance(self._sql, self._lanes, {})
        reach(Failpoint.AFTER_MARK)
        self._saved = moved
        for lane in self._lanes:
            if lane.id in alive:
                lane.stored_offset = lane.next_offset
        if len(alive) < len(self._lanes):
            raise InDoubtError("another owner has acquired a lane")

    async def leave(self) -> None:
        """Save the watermarks for the next owner if broker and database are available; else it repeats some work."""
        try:
            async with asyncio.timeout(LEAVING):
                with suppress(PublishError):  # earlier acknowledgements still count
                    await self._publisher.drain()
                await self.save()
        except InDoubtError as error:
            structlog.get_logger("worker").info("lanes released without saving watermarks", why=str(error))
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return


_TRIES = 3
"""Attempts to commit a batch before it is halved; most conflicts are gone at the second one."""


@dataclass(frozen=True, slots=True)
class Session:
    """What is valid for one set of epochs. A batch keeps its session's lanes, whatever is revoked meanwhile."""

    sql: Connection
    publisher: Publisher
    watermarks: Watermarks
    lanes: Sequence[Lane]
    generation: int


class Committer:
    """Commits the batches of one processor."""

    def __init__(self, processor: Processor, health: Health, log: Any) -> None:
        self._processor = processor
        self._health = health
        self._log = log
        self._seconds = metrics.BATCH_SECONDS.labels(processor.group)
        self._sizes = metrics.BATCH_RECORDS.labels(processor.group)

    def watermarks_due(self) -> bool:
        """Return whether watermarks are due; unwanted records move the offset too, which is not saved each time."""
        return elapsed() - self._health.committed > 1.0

    async def commit_batch(self, session: Session, taken: Batch) -> None:
        """Commit a batch; if it keeps conflicting, its halves, down to single records.

        Raises `InDoubtError`, `PublishError` and what the database raises; each of them ends the session.
        """
        pending = [taken]
        while pending:
            batch = pending.pop()
            try:
                await self._commit(session, batch)
            except ConflictsError as error:
                halves = halve(batch)
                if halves is None:
                    raise InDoubtError("a record keeps conflicting with other transactions") from error
                self._log.info("batch halved", records=len(received(batch)))
                pending += reversed(halves)

    async def _commit(self, session: Session, batch: Batch) -> None:
        records = received(batch)
        if records or self._processor.due_in() == 0 or self.watermarks_due():
            began = elapsed()
            moved = offsets(batch)
            transaction = await self._transact(session, records, moved, last_seen(batch))
            for lane in transaction.lanes.values():
                lane.stored_offset = moved.get(lane.id, lane.next_offset)
            for row in transaction.rows:
                transaction.lanes[row.lane].last_seq = row.seq
            self._check_fence(session.lanes, transaction.lanes)
            self._processor.committed()
            await session.publisher.publish(transaction.rows)
            reach(Failpoint.AFTER_PUBLISH)
            self._count(len(records), transaction, elapsed() - began)
        for chunk in batch:
            chunk.lane.next_offset = chunk.following
            chunk.lane.seen = chunk.last or chunk.lane.seen

    def _count(self, records: int, transaction: Transaction, seconds: float) -> None:
        """Count a batch that is committed and queued for publishing."""
        self._health.batches += 1
        self._health.records += records
        self._health.committed = elapsed()
        self._seconds.observe(seconds)
        self._sizes.observe(records)
        for topic, rows in Counter(row.record.topic for row in transaction.rows).items():
            metrics.OUTBOX_ROWS.labels(self._processor.group, topic).inc(rows)

    async def _transact(
        self, session: Session, records: Sequence[Received], moved: dict[int, int], seen: dict[int, RecordChecksum]
    ) -> Transaction:
        """Commit records and their offsets. Raises `ConflictsError`, and errors that leave the commit in doubt."""
        sql = session.sql
        for attempt in range(_TRIES):
            try:
                async with sql.transaction():
                    alive = await lane_rows.advance(sql, session.lanes, moved, seen)
                    lanes = {lane.id: lane for lane in session.lanes if lane.id in alive}
                    transaction = Transaction(sql, lanes)
                    await self._processor.apply(transaction, [each for each in records if each.lane in lanes])
                    if transaction.rows:
                        await outbox_rows.insert(sql, transaction.rows)
                    reach(Failpoint.BEFORE_COMMIT)
                reach(Failpoint.AFTER_COMMIT)
            except REDO as error:
                self._log.info("batch retried", why=type(error).__name__, attempt=attempt + 1)
                await asyncio.sleep(0.01 * 2**attempt)
            else:
                return transaction
        raise ConflictsError

    def _check_fence(self, lanes: Sequence[Lane], alive: Collection[int]) -> None:
        """Raise `InDoubtError` if a lane has a new owner; the next owner publishes what the others have written."""
        fenced = sorted((lane.topic, lane.partition) for lane in lanes if lane.id not in alive)
        if fenced:
            self._health.fenced += len(fenced)
            raise InDoubtError(f"another owner has acquired {fenced}")
