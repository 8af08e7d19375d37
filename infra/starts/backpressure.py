"""Backpressure: no saga is started while the pipeline lags or too many sagas are in flight.

Sagas that start while services cannot keep up would miss their deadlines, and compensating them adds work.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Final, Self

import structlog

from tradesaga.infra.clock import elapsed
from tradesaga.infra.kafka.admin import find_record
from tradesaga.infra.kafka.connections import KafkaUnavailableError, MappedConsumer, Partition, translated_errors
from tradesaga.infra.kafka.names import physical_name
from tradesaga.infra.postgres.database import DATABASE_ERRORS, Connection, Pool
from tradesaga.infra.settings import Settings
from tradesaga.infra.telemetry import metrics
from tradesaga.schemas.topics import events_topic, starts_topic

LOG: Final = "log"
INTAKE: Final = "intake"
_PAUSE: Final = 1.0
"""Seconds between two checks."""
_POLL_EVERY: Final = 60.0
"""Seconds after which a reader that is held back polls once, or Kafka would consider it dead."""
_NAMES: Final = {LOG: "the saga log", INTAKE: "the intake"}
_LANES: Final = 'SELECT topic, partition, next_offset FROM lane WHERE "group" = $1 AND topic = $2'
_IN_FLIGHT: Final = """
SELECT count(*) FROM (
    SELECT 1 FROM saga WHERE name = $1 AND state IN ('IDLE', 'RUNNING', 'COMPENSATING') LIMIT $2
) AS open
"""


class PipelineLag:
    """Compares the offsets of a saga's readers with the ends of their topics; connected while it is entered.

    A reader that has never run on this database is left out. `limit` is the lag allowed, in seconds.
    """

    def __init__(self, brokers: str, saga: str, limit: float, readers: tuple[str, ...] = (LOG, INTAKE)) -> None:
        topics = {LOG: events_topic(saga), INTAKE: starts_topic(saga)}
        self._readers = {reader: (f"{saga}-{reader}", topics[reader]) for reader in readers}
        self.saga = saga
        self._brokers = brokers
        self._limit = limit
        self._deliverable: dict[Partition, int] = {}
        self._consumer: MappedConsumer | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._disconnect()

    async def find(self, sql: Connection | Pool) -> str:
        """Return which reader has unread records older than the limit; empty if none has.

        Raises `KafkaUnavailableError` and what the database raises.
        """
        for reader, (group, topic) in self._readers.items():
            lanes = await sql.fetch(_LANES, group, topic)
            if not lanes:
                continue
            offsets = {(lane["topic"], lane["partition"]): lane["next_offset"] for lane in lanes}
            try:
                with translated_errors(physical_name(self._brokers, topic)):
                    unread, late = await self._compare(offsets)
            except KafkaUnavailableError:
                await self._disconnect()
                raise
            metrics.PIPELINE_LAG.labels(group).set(unread)
            if late:
                return f"{_NAMES[reader]} is more than {self._limit:g} s behind: {unread} records wait for it"
        return ""

    async def _compare(self, offsets: Mapping[Partition, int]) -> tuple[int, bool]:
        """Return the number of unread records, and whether one of them is older than the limit.

        Deleted records and those of open transactions do not count.
        """
        consumer = await self._connect()
        ends = await consumer.end_offsets(offsets.keys())
        unread = {place: offset for place, offset in offsets.items() if offset < ends[place]}
        if not unread:
            return 0, False
        begins = await consumer.beginning_offsets(unread.keys())
        unread = {place: max(offset, begins[place]) for place, offset in unread.items() if begins[place] < ends[place]}
        since = int((time.time() - self._limit) * 1000)
        recent = await consumer.offsets_for_times(dict.fromkeys(unread, since))
        late = {place: offset for place, offset in unread.items() if offset < recent.get(place, ends[place])}
        if late and not await self._has_record(late):
            return 0, False
        return sum(ends[place] - offset for place, offset in unread.items()), bool(late)

    async def _has_record(self, late: Mapping[Partition, int]) -> bool:
        """Return whether one of these partitions has more than control records from these offsets on.

        The broker is asked only until it has returned a record, and again once the reader has passed that one.
        """
        self._deliverable = {
            place: offset for place, offset in self._deliverable.items() if offset >= late.get(place, offset + 1)
        }
        if not self._deliverable and (found := await find_record(self._brokers, late)) is not None:
            self._deliverable[found[0]] = found[1]
        return bool(self._deliverable)

    async def _connect(self) -> MappedConsumer:
        if self._consumer is None:
            consumer = MappedConsumer(self._brokers, client_id="tradesaga-lag", request_timeout_ms=10_000)
            await consumer.start()
            self._consumer = consumer
        return self._consumer

    async def _disconnect(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()


class Backpressure:
    """Whether new starts have to wait, as found by the last check; `watch` checks for as long as it runs."""

    def __init__(self, lag: PipelineLag, pool: Pool, in_flight_limit: int, *, pause: float = _PAUSE) -> None:
        self._lag = lag
        self._pool = pool
        self._in_flight_limit = in_flight_limit
        self._pause = pause
        self._polled = elapsed()
        self._reported = ""
        self._log = structlog.get_logger("backpressure")
        self.lagging = ""
        """Which reader lags; empty if none does."""
        self.in_flight = 0
        """Sagas that have started and not ended, counted up to the limit."""

    @property
    def is_full(self) -> bool:
        """Whether as many sagas are in flight as may be."""
        return self.in_flight >= self._in_flight_limit

    @property
    def reason(self) -> str:
        """Why new starts have to wait; empty if they need not."""
        return self.lagging or (f"{self.in_flight} sagas are in flight" if self.is_full else "")

    @property
    def holds_back(self) -> bool:
        """Whether a reader of starts must not poll now; once a minute it may, or Kafka would consider it dead."""
        if self.reason and elapsed() - self._polled < _POLL_EVERY:
            return True
        self._polled = elapsed()
        return False

    async def watch(self) -> None:
        """Check until cancelled; while a server does not answer, the last result stays in force."""
        async with self._lag:
            while True:
                try:
                    await self._check()
                except (KafkaUnavailableError, *DATABASE_ERRORS) as error:
                    self._log.warning("lag unknown", why=f"{type(error).__name__}: {error}")
                self._report()
                await asyncio.sleep(self._pause)

    async def _check(self) -> None:
        self.in_flight = await self._pool.fetchval(_IN_FLIGHT, self._lag.saga, self._in_flight_limit)
        self.lagging = await self._lag.find(self._pool)

    def _report(self) -> None:
        """Log when starts begin to wait and when they are accepted again."""
        if bool(self.reason) != bool(self._reported):
            self._log.warning("starts wait" if self.reason else "starts are accepted again", why=self.reason)
        self._reported = self.reason


def make_backpressure(settings: Settings, saga: str, pool: Pool) -> Backpressure:
    """Make the backpressure of services that read starts from Kafka."""
    lag = PipelineLag(settings.brokers(), saga, settings.intake_lag_seconds, (LOG,))
    return Backpressure(lag, pool, settings.intake_in_flight)
