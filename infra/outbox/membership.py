"""One membership of a consumer group: sessions, each with one assignment, from acquiring lanes to publishing."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

from tradesaga.infra.clock import elapsed
from tradesaga.infra.kafka.admin import has_record
from tradesaga.infra.outbox.batch import Batch, count_records
from tradesaga.infra.outbox.commit import Committer, Session, Watermarks
from tradesaga.infra.outbox.fetcher import Fetcher, WorkerSetup
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.ownership import acquire_lanes, republish
from tradesaga.infra.outbox.pacing import BatchTimer
from tradesaga.infra.outbox.ports import make_consumer
from tradesaga.infra.outbox.publish import SESSION_ERRORS, Publisher, PublishError
from tradesaga.infra.outbox.watchdog import Action, Observation, Watchdog, watch

_GRACE = 5.0
"""Seconds that a running batch has to end when the worker is stopped."""
_LEAVING = 10.0
"""Seconds that a consumer has to leave its group."""


class Membership:
    """Runs sessions with one consumer; `generation` grows with whatever makes the present session end."""

    def __init__(self, setup: WorkerSetup, committer: Committer) -> None:
        self._setup = setup
        self._committer = committer
        processor = setup.processor
        self._consumer = make_consumer(setup.brokers, processor.group, processor.topics, setup.owner, setup.session_ms)
        self._fetcher = Fetcher(setup, self._consumer, self._end_session)
        self.inbox = self._fetcher.inbox
        self._wake = self._fetcher.fetched
        self._generation = 0
        self._assigned = self._left = False
        self._owned: Sequence[Lane] = ()
        self._batch_done = asyncio.Event()
        self._batch_done.set()
        self._failures = 0
        self._turned = 0.0

    async def run(self, watchdog: Watchdog) -> Action:
        """Work until the watchdog finds the consumer stuck. Raises `HaltError`, `KafkaUnavailableError`."""
        group, health = self._setup.processor.group, self._setup.health
        await self._consumer.start(self._on_revoked, self._on_assigned)
        health.fetches = True
        fetching = asyncio.create_task(self._fetcher.run(), name=f"fetch {group}")
        watching = asyncio.create_task(self._watch(watchdog), name=f"watchdog {group}")
        try:
            while not watching.done():
                self._turned = elapsed()
                await self._finish(asyncio.create_task(self._session(fetching), name="session"), watching)
                if fetching.done():
                    fetching.result()
                await asyncio.sleep(min(5.0, 0.05 * 2**self._failures) if self._failures else 0)
            return watching.result()
        finally:
            await self._leave(fetching, watching)
            self._left = True

    def doubt(self) -> None:
        """End the session, so that the lanes are acquired again, which checks everything."""
        self._end_session()
        self._wake.set()

    def _end_session(self) -> None:
        self._generation += 1

    async def _leave(self, fetching: "asyncio.Task[None]", watching: "asyncio.Task[Action]") -> None:
        """Leave the group, after the running batch; a stuck consumer is abandoned after a time limit."""
        abandoned = watching.done()
        if not abandoned:
            await self._batch_done.wait()
        fetching.cancel()
        watching.cancel()
        await asyncio.wait([fetching, watching], timeout=_LEAVING if abandoned else None)
        offsets = {} if abandoned else {(lane.topic, lane.partition): lane.stored_offset for lane in self._owned}
        self._forget()
        leaving = asyncio.create_task(self._stop(offsets), name=f"leave {self._setup.processor.group}")
        await asyncio.wait([leaving], timeout=_LEAVING if abandoned else None)
        if leaving.done():
            leaving.result()

    async def _stop(self, offsets: dict[tuple[str, int], int]) -> None:
        await self._consumer.commit(offsets, str(self._setup.guard.identity or ""))
        await self._consumer.stop()

    async def _watch(self, watchdog: Watchdog) -> Action:
        """Watch the consumer; one of a simulation, which has its own time, is not watched."""
        if not isinstance(self._setup.brokers, str):
            await asyncio.Event().wait()
        try:
            return await watch(watchdog, self._observe, partial(has_record, str(self._setup.brokers)))
        finally:
            self.doubt()

    def _observe(self) -> Observation:
        fetcher = self._fetcher
        return Observation(fetcher.polls, dict(fetcher.reading), fetcher.is_paused, self._assigned, self._turned)

    async def _finish(self, session: "asyncio.Task[None]", watching: "asyncio.Task[Action]") -> None:
        """Wait for a session; when stopped, let a running batch end first: the next owner would repeat its work."""
        try:
            await asyncio.wait([session, watching], return_when=asyncio.FIRST_COMPLETED)
            if not session.done():
                await asyncio.wait([session], timeout=_GRACE)
                session.cancel()
                await asyncio.wait([session], timeout=_GRACE)
            if session.done() and not session.cancelled():
                session.result()
        except asyncio.CancelledError:
            if not self._batch_done.is_set():
                self._end_session()
                await asyncio.wait([session], timeout=_GRACE)
            session.cancel()
            await asyncio.wait([session])
            if not session.cancelled():
                session.result()
            raise

    async def _on_revoked(self) -> None:
        if self._left:
            return
        self._assigned, self._owned = False, ()
        self._forget()
        self.doubt()
        # A running batch may end; if it takes longer, the fence decides whether it counts.
        try:
            async with asyncio.timeout(self._setup.session_ms / 2000):
                await self._batch_done.wait()
        except TimeoutError:
            self._setup.log.info("lanes revoked during a batch")

    async def _on_assigned(self) -> None:
        if not self._left:
            self._assigned = True
            self.doubt()

    def _forget(self) -> None:
        self._fetcher.forget()
        self._setup.health.ready = False

    async def _session(self, fetching: "asyncio.Task[None]") -> None:
        """Work with one assignment, one set of epochs and one producer until one of them is in doubt."""
        setup, generation = self._setup, self._generation
        places = sorted(self._consumer.assignment()) if self._assigned else []
        if not places:
            await self._sleep(0.5)
            return
        try:
            async with AsyncExitStack() as stack:
                sql = await stack.enter_async_context(setup.pool.acquire())
                lanes = await acquire_lanes(self._consumer, sql, setup.guard, places, setup.owner)
                publisher = await stack.enter_async_context(Publisher(setup.brokers, setup.owner, lanes))
                watermarks = Watermarks(sql, publisher, lanes)
                await republish(sql, publisher, lanes)
                stack.push_async_callback(setup.processor.close)
                await setup.processor.open(sql, lanes, self._wake.set)
                if generation != self._generation:
                    return
                self._begin(lanes)
                stack.push_async_callback(watermarks.leave)
                await self._work(Session(sql, publisher, watermarks, lanes, generation), fetching)
        except SESSION_ERRORS as error:
            self._failures = min(self._failures + 1, 8)
            setup.health.restarts += 1
            setup.log.warning("session restarted", why=f"{type(error).__name__}: {error}")
        finally:
            self._forget()

    def _begin(self, lanes: Sequence[Lane]) -> None:
        self._owned, self._failures = lanes, 0
        self._fetcher.begin(lanes)
        health = self._setup.health
        health.lanes, health.ready, health.halted = len(lanes), True, ""
        self._setup.log.info("lanes acquired", lanes=len(lanes))

    async def _work(self, session: Session, fetching: "asyncio.Task[None]") -> None:
        processor, inbox, publisher = self._setup.processor, self.inbox, session.publisher
        while session.generation == self._generation and not fetching.done():
            self._turned = elapsed()
            due = processor.due_in()
            if not inbox and due != 0:
                await self._sleep(1.0 if due is None else min(due, 1.0))
            if publisher.failure is not None:
                raise PublishError(f"publishing failed: {publisher.failure}")
            await session.watermarks.save_if_due()
            if session.generation != self._generation:
                return
            if not inbox and processor.due_in() != 0:
                continue
            await self._commit(session, inbox.take())
            self._setup.health.oldest_ms = inbox.oldest_ms
            await publisher.room()

    async def _commit(self, session: Session, batch: Batch) -> None:
        """Commit a batch; pause after it if the process is short of processor time, except in a simulation's time."""
        timer = BatchTimer() if isinstance(self._setup.brokers, str) else None
        self._batch_done.clear()
        try:
            await self._committer.commit_batch(session, batch)
        finally:
            self._batch_done.set()
        if timer is not None and (pause := timer.pause(count_records(batch))):
            await asyncio.sleep(pause)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation on Python 3.11
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()
