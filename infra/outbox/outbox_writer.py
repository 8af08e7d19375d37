"""The outbox writer of producers without Kafka input (HTTP, command line, venue feed): leases, commits, publishes."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, nullcontext
from datetime import timedelta
from typing import Any, Final, Self, TypeVar

import structlog

from tradesaga.infra.kafka.admin import watching
from tradesaga.infra.outbox import lane_rows, leases, outbox_rows
from tradesaga.infra.outbox.batch import ConflictsError
from tradesaga.infra.outbox.batch_writer import (
    REDO,
    FunctionFailedError,
    OutboxTransaction,
    Request,
    reject,
    resolve,
    run_functions,
    run_with_savepoints,
)
from tradesaga.infra.outbox.guard import GroupFilter, Guard, watched_topics
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.outbox_rows import OutboxRow
from tradesaga.infra.outbox.ownership import republish
from tradesaga.infra.outbox.processor import HaltError, InDoubtError
from tradesaga.infra.outbox.publish import SESSION_ERRORS, Publisher, PublishError
from tradesaga.infra.postgres.database import Connection, Pool
from tradesaga.infra.telemetry.metrics import Health

BATCH: Final = 500
"""Maximum number of functions in one transaction."""

_COMMIT_LIMIT: Final = 20.0
"""Seconds that a batch may take; the server's own limits are shorter."""
_TRIES: Final = 4
"""Attempts to commit a batch before it is halved."""
_HALTED: Final = 2.0
"""Seconds after which a halted writer checks again."""
_DRAIN_LIMIT: Final = 15.0
"""Seconds that closing waits for acknowledgements."""

T = TypeVar("T")


class NotWrittenError(Exception):
    """Nothing was written: the writer had no lane, no database or no broker in time."""


class WriteUnknownError(Exception):
    """The commit was not confirmed: the function's writes may or may not exist. Check, or write idempotently."""


class OutboxWriter:
    """Owns one of `count` lanes of (`group`, `topic`) while it is entered; `write` may be called concurrently.

    With `saga` it writes nothing while the database and that saga's topics do not belong together.

    The lease of a lane whose owner has died expires after `lease` seconds; another writer of the group then publishes
    its rows.
    """

    def __init__(
        self,
        pool: Pool,
        bootstrap: str,
        group: str,
        topic: str,
        count: int,
        *,
        owner: str,
        lease: float = 10.0,
        saga: str = "",
        group_filter: GroupFilter | None = None,
    ) -> None:
        self._pool = pool
        self._bootstrap = bootstrap
        self._place = (group, topic)
        self._count = count
        self._owner = owner
        self._lease = timedelta(seconds=lease)
        self._log = structlog.get_logger("writer").bind(group=group)
        self.health = Health()
        self._queue: deque[Request[Any]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._why = "it is still starting"
        self._task: asyncio.Task[None] | None = None
        self._guard = Guard(bootstrap, saga, group_filter=group_filter) if saga else None
        self._watched = watched_topics(saga) if saga else []
        self._doubtful = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"writer {self._place[0]}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_COMMIT_LIMIT + _DRAIN_LIMIT)
            self._task.cancel()
            await asyncio.wait([self._task])
        for request in self._queue:
            reject(request, NotWrittenError("the writer has been closed"))

    async def failed(self) -> None:
        """Wait until the writer ends because of an internal error, and raise it."""
        if self._task is not None:
            await asyncio.shield(self._task)

    @property
    def depth(self) -> int:
        """The number of functions that wait for a transaction."""
        return len(self._queue)

    async def write(self, run: Callable[[OutboxTransaction], Awaitable[T]], *, patience: float = 10.0) -> T:
        """Run a function in the next batch and return its result once the batch is committed.

        The function may be called several times, so it must change nothing but the transaction. An error that it raises
        is raised here, and its own writes are rolled back. Raises `NotWrittenError` if no transaction began within
        `patience` seconds, `WriteUnknownError` if the commit was not confirmed.
        """
        if self._closing or self._task is None or self._task.done():
            raise NotWrittenError("the writer is not open")
        request = Request(run, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self._wake.set()
        try:
            await asyncio.wait([request.future], timeout=patience)
            while not request.future.done() and request.taken:
                await asyncio.wait([request.future], timeout=0.1)
            if not request.future.done():
                raise NotWrittenError(f"no transaction within {patience:g} s: {self._why}")
        finally:
            request.future.cancel()
        return request.future.result()

    def _doubt(self) -> None:
        """End the session, because a topic has changed."""
        self._doubtful = True
        self._wake.set()

    async def _run(self) -> None:
        """Write until closed; start a new session after each failure."""
        failures = 0
        with watching(self._bootstrap, self._watched, self._doubt) if self._watched else nullcontext():
            while not (self._closing and (failures or not self._queue)):
                try:
                    await self._session()
                    failures = 0
                except HaltError as error:
                    failures, self._why, self.health.ready = 5, str(error), False
                    if self.health.halted != self._why:
                        self._log.critical("halted", why=self._why)
                    self.health.halted = self._why
                    await asyncio.sleep(_HALTED)
                except SESSION_ERRORS as error:
                    failures = 1 if self.health.ready else min(failures + 1, 5)
                    self._why = f"{type(error).__name__}: {error}"
                    self.health.ready = False
                    self.health.restarts += 1
                    self._log.warning("session restarted", why=self._why)
                    await asyncio.sleep(0.05 * 2**failures)
        self.health.ready = False

    async def _session(self) -> None:
        """Write with one connection, one epoch and one producer until one of them is in doubt."""
        async with AsyncExitStack() as stack:
            sql = await stack.enter_async_context(self._pool.acquire(timeout=10))
            self._doubtful = False
            if self._guard is not None:
                await self._guard.check(sql)
            await leases.declare(sql, self._place, self._count)
            lane = await leases.acquire(sql, self._place, self._owner, self._lease)
            if lane is None:
                raise InDoubtError(f"all {self._count} lanes of {self._place[0]} are leased to other processes")
            publisher = await stack.enter_async_context(Publisher(self._bootstrap, self._owner, [lane]))
            await republish(sql, publisher, [lane])
            orphans = asyncio.create_task(self._take_over_orphans(lane.id), name=f"orphans {self._place[0]}")
            stack.push_async_callback(_end, orphans)
            self.health.lanes, self.health.ready, self.health.halted = 1, True, ""
            self._log.info("lane leased", lane=lane.partition, epoch=lane.epoch)
            await self._work(sql, lane, publisher)
            async with asyncio.timeout(_DRAIN_LIMIT):
                await publisher.drain()
            await leases.release(sql, lane)

    async def _work(self, sql: Connection, lane: Lane, publisher: Publisher) -> None:
        most = BATCH
        while not self._closing or self._queue:
            if not self._queue:
                await self._sleep(self._lease.total_seconds() / 3)
            self._check_doubts(publisher)
            batch = self._take(most)
            try:
                rows = await self._commit(sql, lane, batch)
            except ConflictsError as error:
                if len(batch) == 1:
                    raise InDoubtError("a function keeps conflicting with other transactions") from error
                most = max(1, len(batch) // 2)
                continue
            most = BATCH
            for request in batch:
                resolve(request)
            if rows:
                lane.last_seq = rows[-1].seq
                await publisher.publish(rows)
                await publisher.room()

    def _check_doubts(self, publisher: Publisher) -> None:
        if publisher.failure is not None:
            raise PublishError(f"publishing failed: {publisher.failure}")
        if self._doubtful:
            raise InDoubtError("a topic has changed")

    def _take(self, most: int) -> list[Request[Any]]:
        batch: list[Request[Any]] = []
        while self._queue and len(batch) < most:
            request = self._queue.popleft()
            if not request.future.done():
                request.taken = True
                batch.append(request)
        return batch

    async def _commit(self, sql: Connection, lane: Lane, batch: list[Request[Any]]) -> list[OutboxRow]:
        """Commit a batch; if it is known not to be written, requeue it and raise."""
        committing = asyncio.Event()
        try:
            async with asyncio.timeout(_COMMIT_LIMIT):
                rows = await self._transact(sql, lane, batch, committing)
        except BaseException as error:
            if not committing.is_set():
                for request in reversed(batch):
                    request.taken = False
                    self._queue.appendleft(request)
                raise
            for request in batch:
                reject(request, WriteUnknownError(f"the commit was not confirmed: {error or type(error).__name__}"))
            raise InDoubtError("a commit was not confirmed") from error
        self.health.batches += 1
        self.health.records += len(batch)
        self.health.polled = time.monotonic()
        return rows

    async def _transact(
        self, sql: Connection, lane: Lane, batch: Sequence[Request[Any]], committing: asyncio.Event
    ) -> list[OutboxRow]:
        """Run a batch without savepoints; if a function fails, repeat it with a savepoint for each."""
        guarded = False
        for attempt in range(_TRIES):
            try:
                async with sql.transaction():
                    if not await lane_rows.fence(sql, [lane]):
                        self.health.fenced += 1
                        raise InDoubtError(f"lane {lane.partition} has been taken over by another owner")
                    rows = await (run_with_savepoints if guarded else run_functions)(sql, lane, batch)
                    await leases.renew(sql, lane, self._lease, rows[-1].seq if rows else lane.last_seq)
                    if rows:
                        await outbox_rows.copy(sql, rows)
                    committing.set()
            except REDO as error:
                committing.clear()
                self._log.info("batch retried", why=type(error).__name__)
                await asyncio.sleep(0.01 * 2**attempt)
            except FunctionFailedError:
                guarded = True
            else:
                return rows
        raise ConflictsError

    async def _take_over_orphans(self, mine: int) -> None:
        """Take over the lanes of dead writers of this group and publish their rows."""
        heir = f"{self._owner}/heir"
        while True:
            try:
                async with self._pool.acquire(timeout=10) as sql:
                    while lane := await leases.take_over(sql, self._place, heir, self._lease, mine):
                        async with Publisher(self._bootstrap, self._owner, [lane]) as publisher:
                            await republish(sql, publisher, [lane])
                        await leases.release(sql, lane)
                        self._log.info("orphaned lane published", lane=lane.partition)
            except SESSION_ERRORS as error:
                self._log.warning("orphaned lanes not published yet", why=f"{type(error).__name__}: {error}")
            await asyncio.sleep(self._lease.total_seconds() / 2)

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        if self._closing or self._queue or self._doubtful:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
