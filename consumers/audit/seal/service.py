"""The sealer service; one process seals at a time, and others wait for its lock."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from tradesaga.consumers.audit.log.checkpoints import HistoryError, Sealed, read_ends, take_turn
from tradesaga.consumers.audit.seal.sealer import Sealer
from tradesaga.infra.audit_log.checkpoint import Checkpoint, parse_unverified
from tradesaga.infra.audit_log.clock_evidence import ClockEvidence, ClockTier, describe_span, read_clock
from tradesaga.infra.audit_log.note import NoteError, public_path, read_signer, read_trusted
from tradesaga.infra.audit_log.seals import SealTrust, find_sealed_ahead, read_seals
from tradesaga.infra.audit_log.witness import WitnessError, WitnessFile
from tradesaga.infra.clock import Clock, SystemClock, elapsed
from tradesaga.infra.kafka.connections import KafkaUnavailableError, Partition
from tradesaga.infra.kafka.inspector import open_inspector
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.kafka.topics import preflight
from tradesaga.infra.outbox.guard_rules import sealed_ahead
from tradesaga.infra.postgres.database import DATABASE_ERRORS, Connection, Pool, open_pool
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.metrics import Health
from tradesaga.schemas.topics import checkpoints_topic, events_topic


@dataclass
class ClockWatch:
    """Compares the clock's error with the tier and warns outside it. Sealing continues: checkpoints state the error."""

    tier: ClockTier
    health: Health
    _outside: bool = False

    def see(self, clock: ClockEvidence) -> None:
        """Report a reading of the clock."""
        metrics.CLOCK_ERROR.set(clock.error / 1e9 if clock.error >= 0 else float("nan"))
        outside = self.tier.exceeded(clock.error)
        metrics.CLOCK_OUTSIDE.set(outside)
        if outside != self._outside:
            self._tell(clock, outside=outside)
        self._outside = outside
        self.health.warn("clock", self._warning(clock) if outside else "")

    def _tell(self, clock: ClockEvidence, *, outside: bool) -> None:
        log = structlog.get_logger("sealer")
        if outside:
            log.warning("the clock is outside its tier", why=self._warning(clock), source=clock.source)
        else:
            log.info("the clock is within its tier again", tier=str(self.tier), source=clock.source)

    def _warning(self, clock: ClockEvidence) -> str:
        if clock.error < 0:
            return f"the clock's error is unknown ({clock.source}); its tier is {self.tier}"
        off = describe_span(clock.error)
        return f"the clock may be off by {off} ({clock.source}); its tier is {self.tier}"


_GRACE_MS: Final = 5_000
"""Milliseconds after the last pass during which unseen records count as sealed."""


@dataclass
class UnsealedWatch:
    """Compares the age of the oldest unsealed record with a limit in seconds and warns above it."""

    limit: float
    health: Health
    clock: Clock = field(default_factory=SystemClock)
    _oldest: Mapping[str, int] = field(default_factory=dict[str, int])
    _seen_ms: int = 0
    _late: frozenset[str] = frozenset()

    def see(self, topics: Mapping[str, str], oldest: Mapping[str, int]) -> None:
        """Report a pass: `topics` by saga, and by topic the broker's time of its oldest unsealed record, if any."""
        self._oldest, self._seen_ms = dict(oldest), self._now_ms()
        ages = {saga: self._age(topic) for saga, topic in topics.items()}
        for saga, topic in topics.items():
            metrics.UNSEALED.labels(saga).set_function(partial(self._age, topic))
        late = {saga: f"records of {saga} have waited {age:.0f} s for their seal" for saga, age in ages.items()}
        late = {saga: why for saga, why in late.items() if ages[saga] > self.limit}
        log = structlog.get_logger("sealer")
        for saga in sorted(late.keys() - self._late):
            log.warning("records are not sealed in time", why=late[saga], limit_seconds=self.limit)
        for saga in sorted(self._late - late.keys()):
            log.info("records are sealed in time again", saga=saga)
        self._late = frozenset(late)
        self.health.warn("unsealed", "; ".join(late.values()))

    def _age(self, topic: str) -> float:
        """Return the age of the oldest record in seconds; without a recent pass, the time since the last one."""
        now = self._now_ms()
        since = self._oldest.get(topic)
        if since is None:
            since = self._seen_ms if now - self._seen_ms > _GRACE_MS else now
        return max(0.0, (now - since) / 1000)

    def _now_ms(self) -> int:
        return self.clock.now() // 1_000_000


EVERY: Final = 1.0
"""Seconds between two passes."""

GROUP: Final = "audit-sealer"

_ACK: Final = 10.0

_AGAIN: Final = 10.0
"""Seconds before a retry after an error that needs an operator."""

_GROUPS: Final = 'SELECT DISTINCT "group" FROM lane WHERE "group" = ANY($1::text[])'

_PASSING = (KafkaUnavailableError, TimeoutError, *DATABASE_ERRORS)


async def serve(settings: Settings) -> None:
    """Seal the audit logs of all registered sagas until cancelled.

    Raises `CommandError` where a key is missing, a server is unavailable at the start, or a topic of a saga that has
    run differs from the catalogue.
    """
    key = settings.audit_key_file()
    signer, trusted = read_signer(key), read_trusted([public_path(key)])
    sagas = registered_sagas(settings.app)
    groups = {f"{name}-log": events_topic(name) for name in sagas}
    sealer = Sealer(signer, trusted, settings.audit_log_id, groups, WitnessFile(settings.audit_witness_file()))
    health = Health()
    metrics.register_worker(GROUP, health)
    log = structlog.get_logger("sealer")
    watches = ClockWatch(settings.clock_tier(), health), UnsealedWatch(settings.audit_unsealed_seconds, health)
    pool = await open_pool(settings.database_for(SAGA_LOG), max_size=1, application_name="tradesaga audit-sealer")
    async with pool:
        # A registered saga without a log, such as the shipped one beside a team's own, has nothing to seal.
        ran = {row["group"] for row in await pool.fetch(_GROUPS, list(groups))}
        names = [name for name in sagas if f"{name}-log" in ran]
        await preflight(settings, [topic(name) for name in names for topic in (events_topic, checkpoints_topic)])
        while True:
            try:
                await _seal(sealer, pool, settings.brokers(), *watches)
            except (HistoryError, NoteError, WitnessError) as error:
                health.halted, health.ready = str(error), False
                log.critical("sealing has halted", why=str(error))
                await asyncio.sleep(_AGAIN)
            except _PASSING as error:
                health.ready = False
                health.restarts += 1
                log.warning("starting over", why=f"{type(error).__name__}: {error}")
                await asyncio.sleep(1)


async def _seal(sealer: Sealer, pool: Pool, brokers: str, watch: ClockWatch, unsealed: UnsealedWatch) -> None:
    """Seal with one session and one producer until either fails, or until `_AGAIN` seconds after a log has halted."""
    health = watch.health
    topics = {topic.removesuffix(".events"): topic for topic in sealer.groups.values()}
    async with pool.acquire() as sql:
        while not await take_turn(sql):  # noqa: ASYNC110 - the holder is another process
            await asyncio.sleep(EVERY)
        producer = Producer(brokers, GROUP)
        await producer.start()
        try:
            await check_topics(sql, brokers, topics, SealTrust(sealer.log_id, sealer.trusted))
            await sealer.open(sql)
            health.ready, began = True, elapsed()
            while not sealer.halted or elapsed() - began < _AGAIN:
                clock = await asyncio.to_thread(read_clock)
                watch.see(clock)
                await _publish(producer, await sealer.seal(sql, clock))
                unsealed.see(topics, sealer.unsealed)
                _tell_halted(health, sealer.halted)
                health.batches += 1
                await asyncio.sleep(EVERY)
        finally:
            await producer.stop()


def _tell_halted(health: Health, halted: Mapping[str, str]) -> None:
    """Report which logs are not sealed although the others are."""
    why = "; ".join(sorted(halted.values()))
    if why and why != health.halted:
        structlog.get_logger("sealer").critical("sealing has halted", why=why, others="are sealed")
    health.halted = why


async def _publish(producer: Producer, sealed: Sequence[Sealed]) -> None:
    """Publish checkpoints; the database and the witness have those that Kafka does not get."""
    acks = [
        await producer.send(
            checkpoints_topic(each.origin.topic.removesuffix(".events")),
            str(each.origin).encode(),
            each.note.encode(),
            (),
        )
        for each in sealed
    ]
    async with asyncio.timeout(_ACK):
        for ack in acks:
            await ack


_SAME_SIZE: Final = """
SELECT c.topic, c.partition, c.note FROM audit_checkpoint c
JOIN unnest($1::text[], $2::int[], $3::bigint[]) AS k (topic, partition, size) USING (topic, partition, size)
"""


async def check_topics(sql: Connection, brokers: str, topics: Mapping[str, str], trust: SealTrust) -> None:
    """Compare the database with the last checkpoints on Kafka; `topics` are the events topics by saga.

    Raises `HistoryError` where the saga log has read less than was sealed, or checkpoints of the same size have
    different roots; `KafkaUnavailableError`.
    """
    seals: dict[Partition, Checkpoint] = {}
    async with open_inspector(brokers) as inspector:
        for saga in topics:
            seals |= await read_seals(inspector, saga, trust)
        there = await inspector.topics(sorted({topic for topic, _ in seals}))
        places = [place for place in seals if place[0] in there and place[1] < there[place[0]].partitions]
        ends = {place: end for place, (_, end) in (await inspector.ranges(places)).items()}
    read = await read_ends(sql)
    if (ahead := find_sealed_ahead(seals, read, ends)) is not None:
        place, sealed = ahead
        where = f"{Cluster.parse(brokers).physical(place[0])}[{place[1]}]"
        raise HistoryError(sealed_ahead(where, sealed, read.get(place, 0)))
    columns = [topic for topic, _ in seals], [number for _, number in seals], [each.size for each in seals.values()]
    for topic, partition, note in await sql.fetch(_SAME_SIZE, *columns):
        seal = seals[topic, partition]
        if parse_unverified(note).root != seal.root:
            raise HistoryError(
                f"{seal.origin}: the database's checkpoint of {seal.size} records is not the one on Kafka; find the "
                f"records that differ with `tradesaga audit verify --topics`, then stop every service and rebuild the "
                f"database with `tradesaga recover database`"
            )
