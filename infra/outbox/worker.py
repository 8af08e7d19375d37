"""The step path of one consumer group in one process: claim, fetch, commit, publish; when in doubt, start over."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from functools import partial

import structlog

from tradesaga.infra.audit_log.seals import SealTrust
from tradesaga.infra.clock import elapsed
from tradesaga.infra.failpoints import Failpoint, reach
from tradesaga.infra.kafka.admin import has_record, watching
from tradesaga.infra.kafka.connections import KafkaUnavailableError, Place
from tradesaga.infra.outbox.batch import Chunk, Inbox
from tradesaga.infra.outbox.commit import Committer, Session, Watermarks
from tradesaga.infra.outbox.guard import GroupFilter, Guard, saga_of, watched_topics
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.ownership import acquire_lanes, republish
from tradesaga.infra.outbox.ports import Brokers, ConsumerPort, cluster_of, make_consumer
from tradesaga.infra.outbox.processor import HaltError, InDoubtError, Processor
from tradesaga.infra.outbox.publish import Publisher, PublishError
from tradesaga.infra.outbox.watchdog import Action, Observation, Patience, Watchdog, stuck_consumer_error, watch
from tradesaga.infra.postgres.database import Pool
from tradesaga.infra.postgres.errors import DATABASE_ERRORS
from tradesaga.infra.telemetry.metrics import Health

BATCH = 1000
"""Records a transaction takes at most."""

_PASSING = (
    InDoubtError, PublishError, KafkaUnavailableError, *DATABASE_ERRORS,
)  # fmt: skip
_COMMIT_EVERY = 5.0
"""Seconds between the offsets we show to Kafka."""
_HELD_LIMIT = 30.0
"""Seconds for which an open transaction may hold records back before somebody is told."""
_GRACE = 5.0
"""Seconds that a batch under way has to come to its end when the worker is told to stop."""
_HALTED = 2.0
"""Seconds after which a worker that has halted looks again."""
_LEAVING = 10.0
"""Seconds that a consumer has to leave its group."""


class Worker:
    """Runs one processor for ever; `run` ends by being cancelled, or when no new consumer helps."""

    def __init__(
        self,
        processor: Processor,
        pool: Pool,
        brokers: Brokers,
        owner: str,
        *,
        session_ms: int = 10_000,
        batch: int = BATCH,
        patience: Patience | None = None,
        trust: SealTrust | None = None,
        group_filter: GroupFilter | None = None,
    ) -> None:
        self._processor = processor
        self._pool = pool
        self._brokers = brokers
        self._owner = owner
        self._session_ms = session_ms
        self._batch = batch
        self._log = structlog.get_logger("worker").bind(group=processor.group)
        self.health = Health()
        self._committer = Committer(processor, self.health, self._log)
        self._assigned = False
        self._generation = 0
        self._unsought: dict[Place, Lane] = {}
        self._ready: dict[Place, Lane] = {}
        self.inbox = Inbox(batch)
        self._wake = asyncio.Event()
        self._batch_done = asyncio.Event()
        self._batch_done.set()
        self._failures = 0
        self._patience = patience or Patience()
        self._membership = 0
        self._turned = 0.0
        self._polls = 0
        self._reading: dict[Place, int] = {}
        self._owned: Sequence[Lane] = ()
        self._held: dict[Place, float] = {}
        saga, topics = saga_of(processor.topics), processor.topics
        self._guard = Guard(brokers, saga, processor.group, topics, trust=trust, group_filter=group_filter)

    async def run(self) -> None:
        """Join the group and work; every failure that may pass is met by starting over, with a growing pause.

        A consumer that is stuck is replaced. Where database and topics do not belong together the group is not joined,
        or left, until they do. Raises `CommandError` when no new consumer helps.
        """
        watchdog = Watchdog(self._patience)
        with self._watching_topics():
            while True:
                await self._admit()
                try:
                    if await self._belong(watchdog) is Action.END:
                        raise stuck_consumer_error(
                            cluster_of(self._brokers).physical(self._processor.group), self._patience.rebuilds
                        )
                except HaltError as error:
                    self._halt(error)
                    continue
                self.health.restarts += 1
                self._log.error("consumer replaced", why="it brings nothing, though there is something to read")

    def _watching_topics(self) -> AbstractContextManager[None]:
        """Claim the lanes anew, which checks everything, when a topic changes. A simulation's topics never do."""
        if not isinstance(self._brokers, str):
            return nullcontext()
        topics = {*self._processor.topics, *watched_topics(saga_of(self._processor.topics))}
        return watching(self._brokers, topics, self._doubt)

    def _doubt(self) -> None:
        self._log.warning("a topic has changed; the lanes are claimed anew")
        self._generation += 1
        self._wake.set()

    async def _admit(self) -> None:
        """Wait, outside the group, until database and topics belong together."""
        pause = 0.05
        while True:
            try:
                async with self._pool.acquire() as sql:
                    await self._guard.check(sql)
            except HaltError as error:
                self._halt(error)
                pause = _HALTED
            except _PASSING as error:
                self.health.restarts += 1
                self._log.warning("not joined yet", why=f"{type(error).__name__}: {error}")
                pause = min(2 * pause, _HALTED)
            else:
                return
            await asyncio.sleep(pause)

    def _halt(self, error: HaltError) -> None:
        """Report, once for each reason, why the group is not worked for."""
        self.health.fetches, self.health.lanes = False, 0
        if self.health.halted != str(error):
            self.health.halted = str(error)
            self._log.critical("halted", why=str(error))

    async def _belong(self, watchdog: Watchdog) -> Action:
        """Work as one member of the group, until a watchdog finds it stuck."""
        consumer = make_consumer(
            self._brokers, self._processor.group, self._processor.topics, self._owner, self._session_ms
        )
        self._membership, self._assigned = self._membership + 1, False
        await consumer.start(partial(self._on_revoked, self._membership), partial(self._on_assigned, self._membership))
        self.health.fetches = True
        fetching = asyncio.create_task(self._fetch(consumer), name=f"fetch {self._processor.group}")
        watching = asyncio.create_task(self._watch(watchdog), name=f"watchdog {self._processor.group}")
        try:
            while not watching.done():
                self._turned = elapsed()
                await self._end_whole(asyncio.create_task(self._session(consumer, fetching), name="session"), watching)
                if fetching.done():
                    fetching.result()
                await asyncio.sleep(min(5.0, 0.05 * 2**self._failures) if self._failures else 0)
            return watching.result()
        finally:
            await self._leave(consumer, fetching, watching)

    async def _leave(
        self, consumer: ConsumerPort, fetching: "asyncio.Task[None]", watching: "asyncio.Task[Action]"
    ) -> None:
        """Leave the group: whole, unless the consumer is stuck in that too."""
        abandoned = watching.done()
        if not abandoned:
            await self._batch_done.wait()
        fetching.cancel()
        watching.cancel()
        await asyncio.wait([fetching, watching], timeout=_LEAVING if abandoned else None)
        offsets = {} if abandoned else {(lane.topic, lane.partition): lane.stored_offset for lane in self._owned}
        self._forget()
        metadata = str(self._guard.identity or "")
        leaving = asyncio.create_task(_stop(consumer, offsets, metadata), name=f"leave {self._processor.group}")
        await asyncio.wait([leaving], timeout=_LEAVING if abandoned else None)
        if leaving.done():
            leaving.result()

    async def _watch(self, watchdog: Watchdog) -> Action:
        """Watch over one consumer. A simulation's is not watched: its time is not ours."""
        if not isinstance(self._brokers, str):
            await asyncio.Event().wait()
        try:
            return await watch(watchdog, self._look, partial(has_record, str(self._brokers)))
        finally:
            self._generation += 1
            self._wake.set()

    def _look(self) -> Observation:
        paused = self.inbox.full or self._processor.full()
        return Observation(self._polls, dict(self._reading), paused, self._assigned, self._turned)

    async def _end_whole(self, session: "asyncio.Task[None]", watching: "asyncio.Task[Action]") -> None:
        """Wait for a session; told to stop, let a batch under way end first, or the next owner would say it again."""
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
                self._generation += 1
                await asyncio.wait([session], timeout=_GRACE)
            session.cancel()
            await asyncio.wait([session])
            if not session.cancelled():
                session.result()
            raise

    async def _on_revoked(self, membership: int) -> None:
        if membership != self._membership:
            return
        self._generation += 1
        self._assigned, self._owned = False, ()
        self._forget()
        self._wake.set()
        # A batch that is under way may finish; where it takes longer the fence decides whether it counts.
        try:
            async with asyncio.timeout(self._session_ms / 2000):
                await self._batch_done.wait()
        except TimeoutError:
            self._log.info("lanes left in the middle of a batch")

    async def _on_assigned(self, membership: int) -> None:
        if membership != self._membership:
            return
        self._generation += 1
        self._assigned = True
        self._wake.set()

    def _forget(self) -> None:
        self._unsought, self._ready, self._reading = {}, {}, {}
        self.inbox.clear()
        self.health.ready = False

    async def _fetch(self, consumer: ConsumerPort) -> None:
        """Fetch for ever. Seeking happens here, between two polls, so what a poll returns was read after the seek."""
        told = elapsed()
        while True:
            self._seek(consumer)
            if elapsed() - told > _COMMIT_EVERY and self._ready:
                told = elapsed()
                await self._tell(consumer)
            if self.inbox.full or self._processor.full():
                self.health.polled = elapsed()  # it could ask, and will
                await asyncio.sleep(0.005)
                continue
            ready = dict(self._ready)
            try:
                fetched = await consumer.poll(self._processor.wants, 500, self._batch)
            except KafkaUnavailableError as error:
                self._log.warning("nothing fetched", why=str(error))
                self._generation += 1  # what was fetched may be half lost: read on from the database's offsets
                await asyncio.sleep(0.5)
                continue
            self.health.polled = elapsed()
            self._polls += 1
            for place, polled in fetched.items():
                lane = ready.get(place)
                if lane is not None and self._ready.get(place) is lane:
                    if polled.following <= self._reading[place]:
                        self._generation += 1  # the broker has no such offset any more: claiming tells why
                        break
                    self.inbox.put(Chunk(lane, polled.following, polled.records, polled.last))
                    self._reading[place] = polled.following
            self.health.oldest_ms = self.health.oldest_ms or self.inbox.oldest_ms
            self._wake.set()

    async def _tell(self, consumer: ConsumerPort) -> None:
        """Show how far we are: to Kafka, and to whoever looks at the metrics."""
        offsets = {place: lane.next_offset for place, lane in self._ready.items()}
        self.health.lag = consumer.behind(offsets)
        self._tell_held(consumer.held_back(offsets))
        self.health.unpublished = sum(lane.last_seq - lane.acked_seq for lane in self._ready.values())
        reach(Failpoint.BEFORE_OFFSET_COMMIT)
        stored = {place: lane.stored_offset for place, lane in self._ready.items()}
        await consumer.commit(stored, str(self._guard.identity))
        reach(Failpoint.AFTER_OFFSET_COMMIT)

    def _tell_held(self, held: Mapping[Place, int]) -> None:
        """Warn of transactions that stay open: what follows them on their partitions is given to nobody."""
        now = elapsed()
        self._held = {place: self._held.get(place, now) for place in held}
        late = sorted(place for place, since in self._held.items() if now - since > _HELD_LIMIT)
        named = cluster_of(self._brokers).physical
        told = [
            f"{named(topic)}[{number}]: {held[topic, number]} records wait for a transaction" for topic, number in late
        ]
        warning = f"{'; '.join(told)} that somebody has left open" if told else ""
        if warning and not self.health.warning:
            self._log.warning("records held back", why=warning)
        self.health.warning = warning

    def _seek(self, consumer: ConsumerPort) -> None:
        unsought, self._unsought = self._unsought, {}
        for place, lane in unsought.items():
            try:
                consumer.seek(place, lane.next_offset)
            except KafkaUnavailableError as error:
                self._log.info("lane lost before its first record", why=str(error))
                continue
            self._ready[place] = lane
            self._reading[place] = lane.next_offset

    async def _session(self, consumer: ConsumerPort, fetching: "asyncio.Task[None]") -> None:
        """Work with one assignment, one set of epochs and one producer, until any of them is in doubt."""
        generation = self._generation
        places = sorted(consumer.assignment()) if self._assigned else []
        if not places:
            await self._sleep(0.5)
            return
        try:
            async with AsyncExitStack() as stack:
                sql = await stack.enter_async_context(self._pool.acquire())
                lanes = await acquire_lanes(consumer, sql, self._guard, places, self._owner)
                publisher = await stack.enter_async_context(Publisher(self._brokers, self._owner, lanes))
                await republish(sql, publisher, lanes)
                stack.push_async_callback(self._processor.close)
                await self._processor.open(sql, lanes, self._wake.set)
                if generation != self._generation:
                    return
                self._begin(lanes)
                watermarks = Watermarks(sql, publisher, lanes)
                stack.push_async_callback(watermarks.leave)
                await self._work(Session(sql, publisher, watermarks, lanes, generation), fetching)
        except _PASSING as error:
            self._failures = min(self._failures + 1, 8)
            self.health.restarts += 1
            self._log.warning("session restarted", why=f"{type(error).__name__}: {error}")
        finally:
            self._forget()

    def _begin(self, lanes: Sequence[Lane]) -> None:
        self._owned = lanes
        self._unsought = {(lane.topic, lane.partition): lane for lane in lanes}
        self.health.lanes, self.health.ready, self.health.halted, self._failures = len(lanes), True, "", 0
        self._log.info("lanes acquired", lanes=len(lanes))

    async def _work(self, session: Session, fetching: "asyncio.Task[None]") -> None:
        publisher, generation = session.publisher, session.generation
        while generation == self._generation and not fetching.done():
            self._turned = elapsed()
            due = self._processor.due_in()
            if not self.inbox and due != 0:
                await self._sleep(1.0 if due is None else min(due, 1.0))
            if publisher.failure is not None:
                raise PublishError(f"publishing failed: {publisher.failure}")
            if generation != self._generation:
                return
            if not self.inbox and self._processor.due_in() != 0:
                if self._committer.watermarks_due():
                    await session.watermarks.save()
                continue
            self._batch_done.clear()
            try:
                await self._committer.commit_batch(session, self.inbox.take())
            finally:
                self._batch_done.set()
            self.health.oldest_ms = self.inbox.oldest_ms
            await publisher.room()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation on Python 3.11
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()


async def _stop(consumer: ConsumerPort, offsets: dict[Place, int], metadata: str) -> None:
    await consumer.commit(offsets, metadata)
    await consumer.stop()
