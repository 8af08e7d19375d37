"""The fetch loop of one group member: it seeks to acquired lanes, polls, and fills the inbox."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tradesaga.infra.clock import elapsed
from tradesaga.infra.failpoints import Failpoint, reach
from tradesaga.infra.kafka.connections import KafkaUnavailableError, Partition
from tradesaga.infra.outbox.batch import Chunk, Inbox
from tradesaga.infra.outbox.guard import Guard
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.ports import Brokers, ConsumerPort, cluster_of
from tradesaga.infra.outbox.processor import Processor
from tradesaga.infra.outbox.watchdog import Patience
from tradesaga.infra.postgres.database import Pool
from tradesaga.infra.telemetry.metrics import Health

_COMMIT_EVERY = 5.0
"""Seconds between two commits of offsets to Kafka."""
_HELD_LIMIT = 30.0
"""Seconds for which an open transaction may hold records back before a warning."""
_POLL_MS: Final = 500


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker shares with each of its group memberships. `session_ms` is the group's session timeout."""

    processor: Processor
    pool: Pool
    brokers: Brokers
    owner: str
    guard: Guard
    health: Health
    log: Any
    session_ms: int
    batch: int
    patience: Patience

    def physical(self, name: str) -> str:
        """Return the physical name of a topic or group."""
        return cluster_of(self.brokers).physical(name)


class Fetcher:
    """Reads the lanes that `begin` names; `doubt` is called when the lanes have to be acquired again."""

    def __init__(self, setup: WorkerSetup, consumer: ConsumerPort, doubt: Callable[[], None]) -> None:
        self._setup = setup
        self._consumer = consumer
        self._doubt = doubt
        self._unsought: dict[Partition, Lane] = {}
        self._ready: dict[Partition, Lane] = {}
        self._held: dict[Partition, float] = {}
        self.inbox = Inbox(setup.batch)
        self.fetched = asyncio.Event()
        """Set after each poll."""
        self.polls = 0
        self.reading: dict[Partition, int] = {}
        """The offset of the next record of each lane that is read."""

    @property
    def is_paused(self) -> bool:
        """Whether nothing is fetched until some work is done."""
        return self.inbox.full or self._setup.processor.full()

    def begin(self, lanes: Sequence[Lane]) -> None:
        """Read these lanes from their next offsets on."""
        self._unsought = {(lane.topic, lane.partition): lane for lane in lanes}

    def forget(self) -> None:
        """Read no lane, and drop what was fetched."""
        self._unsought, self._ready, self.reading = {}, {}, {}
        self.inbox.clear()

    async def run(self) -> None:
        """Fetch until cancelled. Seeks only between two polls, so that a poll returns only records after the seek."""
        health, committed = self._setup.health, elapsed()
        while True:
            self._seek()
            if elapsed() - committed > _COMMIT_EVERY and self._ready:
                committed = elapsed()
                await self._report()
            if self.is_paused:
                health.polled = elapsed()  # a paused worker is not a dead one
                await asyncio.sleep(0.005)
                continue
            ready = dict(self._ready)
            try:
                fetched = await self._consumer.poll(self._setup.processor.wants, _POLL_MS, self._setup.batch)
            except KafkaUnavailableError as error:
                self._setup.log.warning("nothing fetched", why=str(error))
                self._doubt()  # a part of what was fetched may be lost: continue from the database's offsets
                await asyncio.sleep(0.5)
                continue
            health.polled = elapsed()
            self.polls += 1
            for place, polled in fetched.items():
                lane = ready.get(place)
                if lane is not None and self._ready.get(place) is lane:
                    if polled.following <= self.reading[place]:
                        self._doubt()  # the broker no longer has such an offset: the next check finds out why
                        break
                    self.inbox.put(Chunk(lane, polled.following, polled.records, polled.last))
                    self.reading[place] = polled.following
            health.oldest_ms = health.oldest_ms or self.inbox.oldest_ms
            self.fetched.set()

    def _seek(self) -> None:
        unsought, self._unsought = self._unsought, {}
        for place, lane in unsought.items():
            try:
                self._consumer.seek(place, lane.next_offset)
            except KafkaUnavailableError as error:
                self._setup.log.info("lane lost before its first record", why=str(error))
                continue
            self._ready[place] = lane
            self.reading[place] = lane.next_offset

    async def _report(self) -> None:
        """Update the metrics of progress, and commit the stored offsets to Kafka."""
        health, lanes = self._setup.health, self._ready.values()
        offsets = {place: lane.next_offset for place, lane in self._ready.items()}
        health.lag = self._consumer.behind(offsets)
        self._warn_held(self._consumer.held_back(offsets))
        health.unpublished = sum(lane.last_seq - lane.acked_seq for lane in lanes)
        reach(Failpoint.BEFORE_OFFSET_COMMIT)
        stored = {place: lane.stored_offset for place, lane in self._ready.items()}
        await self._consumer.commit(stored, str(self._setup.guard.identity))
        reach(Failpoint.AFTER_OFFSET_COMMIT)

    def _warn_held(self, held: Mapping[Partition, int]) -> None:
        """Warn of transactions that stay open: no consumer gets the records after them."""
        now, health = elapsed(), self._setup.health
        self._held = {place: self._held.get(place, now) for place in held}
        late = sorted(place for place, since in self._held.items() if now - since > _HELD_LIMIT)
        named = [
            f"{self._setup.physical(topic)}[{number}]: {held[topic, number]} records wait for a transaction"
            for topic, number in late
        ]
        warning = f"{'; '.join(named)} that a producer has left open" if named else ""
        if warning and not health.warning:
            self._setup.log.warning("records held back", why=warning)
        health.warning = warning
