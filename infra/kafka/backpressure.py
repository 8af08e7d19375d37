# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""How far a saga's log and its front door are behind, and how many sagas are under way: too much, and none is begun.

Sagas that are begun while nobody keeps up run into their deadlines one and all, and taking them back makes more work.
"""

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import structlog
from aiokafka.errors import KafkaError

from tradesaga.infra.clock import elapsed
from tradesaga.infra.kafka.admin import find_record
from tradesaga.infra.kafka.connections import READ_COMMITTED, MappedConsumer, Place
from tradesaga.infra.kafka.errors import KafkaUnavailableError
from tradesaga.infra.kafka.names import physical_name
from tradesaga.infra.postgres.database import Connection, Pool
from tradesaga.infra.postgres.errors import DATABASE_ERRORS
from tradesaga.infra.settings import Settings
from tradesaga.infra.telemetry import metrics
from tradesaga.schemas.topics import events_topic, starts_topic

LOG: Final = "log"
INTAKE: Final = "intake"
_PAUSE: Final = 1.0
"""Seconds between two looks."""
_BREATH: Final = 60.0
"""Seconds after which a reader at a closed gate asks once, or Kafka would take it for dead."""
_NAMES: Final = {LOG: "the saga log", INTAKE: "the intake"}
_LANES: Final = 'SELECT topic, partition, next_offset FROM lane WHERE "group" = $1 AND topic = $2'
_UNDER_WAY: Final = """
SELECT count(*) FROM (
    SELECT 1 FROM saga WHERE name = $1 AND state IN ('IDLE', 'RUNNING', 'COMPENSATING') LIMIT $2
) AS open
"""


async def count_under_way(sql: Connection | Pool, saga: str, limit: int) -> int:
    """Count the sagas that have started and not ended, up to `limit`: no more rows than that are looked at."""
    return await sql.fetchval(_UNDER_WAY, saga, limit)


class Pipeline:
    """Asks broker and database while it is entered; `readers` are those whose lag counts.

    A reader that has never run on this database is not waited for.
    """

    def __init__(self, brokers: str, saga: str, limit: float, readers: tuple[str, ...] = (LOG, INTAKE)) -> None:
        topics = {LOG: events_topic(saga), INTAKE: starts_topic(saga)}
        self._readers = {reader: (f"{saga}-{reader}", topics[reader]) for reader in readers}
        self.saga = saga
        self._brokers = brokers
        self._limit = limit
        self._shown: dict[Place, int] = {}
        self._consumer: MappedConsumer | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def look(self, sql: Connection | Pool) -> str:
        """Say who has records to read that are older than the limit; empty when nobody has.

        Raises `KafkaUnavailableError` and what the database raises.
        """
        for reader, (group, topic) in self._readers.items():
            lanes = await sql.fetch(_LANES, group, topic)
            if not lanes:
                continue
            offsets = {(lane["topic"], lane["partition"]): lane["next_offset"] for lane in lanes}
            try:
                behind, late = await self._compare(offsets)
            except (KafkaError, OSError) as error:
                await self._leave()
                raise KafkaUnavailableError(
                    f"{physical_name(self._brokers, topic)}: {error or type(error).__name__}"
                ) from error
            metrics.PIPELINE_LAG.labels(group).set(behind)
            if late:
                return f"{_NAMES[reader]} is more than {self._limit:g} s behind: {behind} records wait for it"
        return ""

    async def _compare(self, offsets: Mapping[Place, int]) -> tuple[int, bool]:
        """Count the records that wait, and say whether one of them is older than the limit.

        What was deleted does not wait, nor what belongs to an open transaction.
        """
        consumer = await self._join()
        ends = await consumer.end_offsets(offsets.keys())
        waiting = {place: offset for place, offset in offsets.items() if offset < ends[place]}
        if not waiting:
            return 0, False
        begins = await consumer.beginning_offsets(waiting.keys())
        waiting = {
            place: max(offset, begins[place]) for place, offset in waiting.items() if begins[place] < ends[place]
        }
        since = int((time.time() - self._limit) * 1000)
        recent = await consumer.offsets_for_times(dict.fromkeys(waiting, since))
        late = {place: offset for place, offset in waiting.items() if offset < recent.get(place, ends[place])}
        if late and not await self._deliverable(late):
            return 0, False
        return sum(ends[place] - offset for place, offset in waiting.items()), bool(late)

    async def _deliverable(self, late: Mapping[Place, int]) -> bool:
        """Return whether one of these partitions has more than control records from these offsets on.

        The broker is asked only until it has shown a record, and again once the reader has passed that one.
        """
        self._shown = {place: offset for place, offset in self._shown.items() if offset >= late.get(place, offset + 1)}
        if not self._shown and (found := await find_record(self._brokers, late)) is not None:
            self._shown[found[0]] = found[1]
        return bool(self._shown)

    async def _join(self) -> MappedConsumer:
        if self._consumer is None:
            consumer = MappedConsumer(
                self._brokers, client_id="tradesaga-lag", request_timeout_ms=10_000,
                enable_auto_commit=False, isolation_level=READ_COMMITTED,
            )  # fmt: skip
            try:
                await consumer.start()
            except BaseException:
                await consumer.stop()
                raise
            self._consumer = consumer
        return self._consumer

    async def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()


class Gate:
    """Keeps a reader from bringing in more while the pipeline is behind, or enough is under way, as last looked up."""

    def __init__(self, pipeline: Pipeline, pool: Pool, under_way: int) -> None:
        self._pipeline = pipeline
        self._pool = pool
        self._under_way = under_way
        self._why = ""
        self._asked = elapsed()
        self._log = structlog.get_logger("pipeline")

    @property
    def closed(self) -> bool:
        """Say whether the reader is to wait."""
        if self._why and elapsed() - self._asked < _BREATH:
            return True
        self._asked = elapsed()
        return False

    async def watch(self) -> None:
        """Look for ever; servers that do not answer leave the last answer standing."""
        async with self._pipeline as pipeline:
            while True:
                try:
                    why = await pipeline.look(self._pool) or await self._count(pipeline.saga)
                except (KafkaUnavailableError, *DATABASE_ERRORS) as error:
                    self._log.warning("lag unknown", why=f"{type(error).__name__}: {error}")
                else:
                    if bool(why) != bool(self._why):
                        self._log.warning("nothing new is taken in" if why else "taking in again", why=why)
                    self._why = why
                await asyncio.sleep(_PAUSE)

    async def _count(self, saga: str) -> str:
        count = await count_under_way(self._pool, saga, self._under_way)
        return f"{count} sagas are under way" if count >= self._under_way else ""


def make_gate(settings: Settings, saga: str, pool: Pool) -> Gate:
    """Make the gate of those who take starts from Kafka; it is looked after by its `watch`."""
    pipeline = Pipeline(settings.brokers(), saga, settings.intake_lag_seconds, (LOG,))
    return Gate(pipeline, pool, settings.intake_in_flight)
