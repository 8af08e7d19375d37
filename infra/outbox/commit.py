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
from tradesaga.infra.outbox.batch import Batch, ConflictsError, count_records, halve, last_seen, offsets, received
from tradesaga.infra.outbox.batch_writer import REDO
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.processor import InDoubtError, Processor, Received, Transaction
from tradesaga.infra.outbox.publish import Publisher, PublishError
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.metrics import Health

LEAVING = 2.0
"""Seconds that an owner waits for the broker before it gives up its lanes."""
SAVING = 1.0
"""Seconds between two saves of the watermarks."""


class Watermarks:
    """The watermarks of one owner's lanes; without them the next owner would reprocess finished work."""

    def __init__(self, sql: Connection, publisher: Publisher, lanes: Sequence[Lane]) -> None:
        self._sql = sql
        self._publisher = publisher
        self._lanes = lanes
        self._saved = {lane.id: _progress(lane) for lane in lanes}
        self._at = elapsed()

    async def save_if_due(self) -> None:
        """Save the watermarks if `SAVING` seconds have passed. Raises `InDoubtError` when a lane has a new owner."""
        if elapsed() - self._at > SAVING:
            await self.save()

    async def save(self) -> None:
        """Save the watermarks that have moved. Raises `InDoubtError` when any lane has a new owner.

        A batch locks only the lanes it writes to, so this is where an owner at work notices that it has lost another.
        """
        self._at = elapsed()
        progress = {lane.id: _progress(lane) for lane in self._lanes}
        moved = [lane for lane in self._lanes if self._saved[lane.id] != progress[lane.id]]
        others = [lane for lane in self._lanes if self._saved[lane.id] == progress[lane.id]]
        if not moved:
            return
        reach(Failpoint.BEFORE_MARK)
        owned = await lane_rows.advance(self._sql, moved)
        reach(Failpoint.AFTER_MARK)
        for lane in moved:
            if lane.id in owned:
                lane.stored_offset = lane.next_offset
        self._saved = progress
        if others:
            owned |= await lane_rows.find_owned(self._sql, others)
        if len(owned) < len(self._lanes):
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


def _progress(lane: Lane) -> tuple[int, int]:
    return lane.acked_seq, lane.next_offset


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
                self._log.info("batch halved", records=count_records(batch))
                pending += reversed(halves)

    async def _commit(self, session: Session, batch: Batch) -> None:
        records = received(batch)
        if records or self._processor.due_in() == 0:  # unwanted records only move offsets, which are saved later
            began = elapsed()
            moved = offsets(batch)
            transaction, lost = await self._transact(session, records, moved, last_seen(batch))
            for lane in transaction.lanes.values():
                lane.stored_offset = moved.get(lane.id, lane.next_offset)
            for row in transaction.rows:
                transaction.lanes[row.lane].last_seq = row.seq
            self._check_fence(lost)
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
        self._seconds.observe(seconds)
        self._sizes.observe(records)
        for topic, rows in Counter(row.record.topic for row in transaction.rows).items():
            metrics.OUTBOX_ROWS.labels(self._processor.group, topic).inc(rows)

    async def _transact(
        self, session: Session, records: Sequence[Received], moved: dict[int, int], seen: dict[int, RecordChecksum]
    ) -> tuple[Transaction, list[Lane]]:
        """Commit records and their offsets; return the lanes that have a new owner besides the transaction.

        Raises `ConflictsError`, and errors that leave the commit in doubt.
        """
        sql = session.sql
        for attempt in range(_TRIES):
            others = self._processor.other_lanes()
            lanes = _select(session.lanes, records, others)
            try:
                async with sql.transaction():
                    owned = await lane_rows.fence(sql, lanes)
                    transaction = Transaction(
                        sql, {lane.id: lane for lane in lanes if lane.id in owned}, others is None
                    )
                    await self._processor.apply(transaction, [each for each in records if each.lane in owned])
                    await write(transaction, moved, seen)
                    reach(Failpoint.BEFORE_COMMIT)
                reach(Failpoint.AFTER_COMMIT)
            except REDO as error:
                self._log.info("batch retried", why=type(error).__name__, attempt=attempt + 1)
                await asyncio.sleep(0.01 * 2**attempt)
            else:
                return transaction, [lane for lane in lanes if lane.id not in owned]
        raise ConflictsError

    def _check_fence(self, lost: Sequence[Lane]) -> None:
        """Raise `InDoubtError` if a lane has a new owner; the next owner publishes what the others have written."""
        if lost:
            self._health.fenced += len(lost)
            raise InDoubtError(f"another owner has acquired {sorted((lane.topic, lane.partition) for lane in lost)}")


def _select(lanes: Sequence[Lane], records: Sequence[Received], others: Collection[int] | None) -> Sequence[Lane]:
    """Return the lanes that a batch locks: those of its records and of the processor's other work, None for all."""
    if others is None:
        return lanes
    wanted = {each.lane for each in records}.union(others)
    return [lane for lane in lanes if lane.id in wanted]


async def write(transaction: Transaction, moved: dict[int, int], seen: dict[int, RecordChecksum]) -> None:
    """Write offsets, watermarks and outbox rows of the lanes that have passed the fence."""
    numbers = {row.lane: row.seq for row in transaction.rows}
    await lane_rows.move(transaction.sql, list(transaction.lanes.values()), moved, seen, numbers)
    if transaction.rows:
        await outbox_rows.copy(transaction.sql, transaction.rows)
