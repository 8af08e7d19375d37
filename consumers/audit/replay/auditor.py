"""The live auditor: folds new records of the topics continuously and checks all sagas again in the background."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog

from tradesaga.consumers.audit.log.checkpoints import read_leaf_formats
from tradesaga.consumers.audit.log.retired_ranges import read_retired
from tradesaga.consumers.audit.log.rows import snapshot
from tradesaga.consumers.audit.replay.comparison import (
    RowComparer,
    RowReader,
    compare_chains,
    compare_ends,
    compare_states,
    read_log_ends,
)
from tradesaga.consumers.audit.replay.differences import Difference
from tradesaga.consumers.audit.replay.request import Span
from tradesaga.consumers.audit.replay.state import Identity, ReplayState, file_for
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.clock import elapsed
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.admin import count_partitions, read_cluster_id
from tradesaga.infra.kafka.connections import KafkaUnavailableError, Partition
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.postgres.database import DATABASE_ERRORS, Session, session
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.metrics import Health
from tradesaga.sagas.definition import AnySaga

ROUND: Final = 20_000
"""Records per pass: about a second's work, during which the database keeps the snapshot."""

BACKGROUND_SAGAS: Final = 25
"""Sagas that one pass checks in the background after the first lap."""

_CHUNK: Final = 500

_NOBODY: Final = UUID(int=0)

_COUNT: Final = "SELECT count(*) FROM saga WHERE name = $1"


@dataclass(frozen=True, slots=True)
class AuditPass:
    """The result of a pass.

    `behind` is the number of records that the saga log has read and the auditor has not; `lag` is the number that the
    topic has beyond the auditor. `oldest_ms` is the broker's time of the last record read while behind, 0 otherwise.
    `differing` is the number of all differences; `fresh` has those of this pass.
    """

    records: int = 0
    behind: int = 0
    lag: int = 0
    oldest_ms: int = 0
    differing: int = 0
    fresh: Sequence[Difference] = ()


@dataclass
class Auditor:
    """Compares one saga's topic with the database, pass by pass, without writing to either.

    `lap` is the minimum time in seconds of a background check of all sagas.
    """

    rules: Rules
    replay_state: ReplayState
    topics: TopicReader
    lap: float
    _checked: bool = False
    _checked_up_to: UUID = _NOBODY
    _laps: int = 0
    _lap_began: float = field(default_factory=elapsed)

    async def look(self, sql: Session) -> AuditPass:
        """Fold new records and compare them with their rows; compare the changed sagas and some others.

        Raises `CommandError` (exit 4) if the topic has a gap or is a different one, and `KafkaUnavailableError`.
        """
        fresh: list[Difference] = []

        def tell(found: Iterable[Difference]) -> None:
            fresh.extend(self.replay_state.differ(found))

        async with snapshot(sql):
            log_ends = await read_log_ends(sql, self.rules)
            held = await self.topics.ranges(log_ends)
            if not self._checked:
                await self.replay_state.check(self.topics, held)
                self._checked = True
            tell(compare_ends(log_ends, held))
            records, touched = await self._fold(sql, log_ends, held, tell)
            behind = sum(max(0, end - self._next(place, held)) for place, end in log_ends.items())
            await self._compare(sql, touched, tell)
            if not behind:
                await self._check_background(sql, tell)
        if records or fresh:
            self.replay_state.save()
        lag = sum(max(0, end - self._next(place, held)) for place, (_, end) in held.items())
        counts = self.replay_state.counts
        oldest_ms = counts.get("recorded_ms", 0) if behind else 0
        return AuditPass(records, behind, lag, oldest_ms, counts.get("differing", 0), fresh)

    def _next(self, place: Partition, held: Mapping[Partition, Span]) -> int:
        watermark = self.replay_state.watermarks.get(place)
        return watermark.next_offset if watermark is not None else held[place][0]

    async def _fold(
        self,
        sql: Session,
        log_ends: Mapping[Partition, int],
        held: Mapping[Partition, Span],
        tell: Callable[[Iterable[Difference]], object],
    ) -> tuple[int, set[UUID]]:
        """Fold up to `ROUND` records; return their number, and the sagas of partitions that reached the log's end."""
        retired, leaves_from = await read_retired(sql), await read_leaf_formats(sql)
        comparer = RowComparer(self.rules, self.replay_state, tell)
        left, touched = ROUND, set[UUID]()
        for place, log_end in log_ends.items():
            start = self._next(place, held)
            end = min(log_end, held[place][1], start + left)
            if start >= end:
                continue
            if start and place not in self.replay_state.watermarks:
                self.replay_state.add(f"midway {place[1]}", 1)
            midway = f"midway {place[1]}" in self.replay_state.counts
            rows = RowReader(sql, place, (start, end), retired.get(place, 0), leaves_from.get(place, 0))
            mine = set[UUID]()
            resumed = place in self.replay_state.watermarks
            async for batch in self.topics.read(place, start, end, resumed=resumed):
                mine |= await comparer.take(rows, batch, midway=midway)
                left -= len(batch)
                self.replay_state.counts["recorded_ms"] = batch[-1].recorded_ms
            if end == log_end:
                touched |= mine
        return ROUND - left, touched

    async def _compare(self, sql: Session, touched: set[UUID], tell: Callable[[Iterable[Difference]], object]) -> None:
        """Compare the sagas of new records."""
        known = (self.replay_state.sagas.get(saga_id) for saga_id in touched)
        sagas = iter([tracked for tracked in known if tracked is not None])
        while chunk := list(islice(sagas, _CHUNK)):
            tell(await compare_states(sql, self.rules, chunk))

    async def _check_background(self, sql: Session, tell: Callable[[Iterable[Difference]], object]) -> None:
        """Check the next sagas; the first lap checks many at once, later ones spread over `lap` seconds."""
        if self._checked_up_to == _NOBODY and self._laps and elapsed() - self._lap_began < self.lap:
            return
        if self._checked_up_to == _NOBODY:
            self._lap_began = elapsed()
        sagas = self.replay_state.sagas.after(self._checked_up_to, BACKGROUND_SAGAS if self._laps else _CHUNK)
        if sagas:
            tell(await compare_states(sql, self.rules, sagas))
            tell(await compare_chains(sql, self.rules, sagas))
            self._checked_up_to = sagas[-1].saga_id
            return
        self._checked_up_to, self._laps = _NOBODY, self._laps + 1
        if not self.replay_state.partial_sagas.heads:
            mine, stored = self.replay_state.sagas.count_started(), await sql.fetchval(_COUNT, self.rules.saga.name)
            if mine != stored:
                tell([Difference(self.rules.saga.name, "number of sagas", str(mine), str(stored))])


EVERY: Final = 1.0
"""Seconds between two passes when nothing is left to read."""

_AGAIN: Final = 10.0
"""Seconds before a retry after an error that needs an operator."""

_LOGGED: Final = 20
"""The maximum number of differences that a pass logs; further ones are counted."""

PASSING: Final = (KafkaUnavailableError, TimeoutError, *DATABASE_ERRORS)

Seen = Callable[[AuditPass], object]


async def serve(settings: Settings) -> None:
    """Audit all registered sagas until cancelled. Raises `CommandError` if a server is unavailable at the start."""
    async with asyncio.TaskGroup() as group:
        for name, saga in registered_sagas(settings.app).items():
            group.create_task(_Watch(settings, saga).run(), name=f"audit {name}")


def resume_file(settings: Settings, saga: str, cluster: str) -> Path:
    """Return the file with the auditor's state for a saga; each cluster has its own."""
    return settings.home / f"audit-replay-{saga}-{cluster}.db"


async def follow(settings: Settings, saga: AnySaga, resume: Callable[[str], Path | None], seen: Seen) -> None:
    """Run passes and call `seen` with each result, until `seen` raises.

    `resume` returns the file with the state for a cluster's id.
    Raises `CommandError`, `KafkaUnavailableError` and the database's errors.
    """
    topic = Rules(saga).topic
    counts = await count_partitions(settings.brokers(), [topic])
    cluster = await read_cluster_id(settings.brokers())
    rules = Rules(saga, counts[topic])
    identity = Identity.of(rules, cluster, "auditor")
    with ReplayState(file_for(resume(cluster), identity), identity, rules) as replay_state:
        seen(AuditPass(fresh=replay_state.differences(_LOGGED), differing=replay_state.counts.get("differing", 0)))
        async with (
            session(settings.database_for(SAGA_LOG), application_name="tradesaga audit-replayer") as sql,
            TopicReader(settings.brokers()) as topics,
        ):
            auditor = Auditor(rules, replay_state, topics, settings.audit_lap)
            while True:
                look = await auditor.look(sql)
                seen(look)
                await asyncio.sleep(0 if look.behind else EVERY)


class _Watch:
    """Runs one saga's auditor, restarts it after errors, and reports its health."""

    def __init__(self, settings: Settings, saga: AnySaga) -> None:
        self._settings = settings
        self._saga = saga
        self._health = Health()
        self._log = structlog.get_logger("auditor").bind(saga=saga.name)
        metrics.register_worker(f"{saga.name}-audit", self._health)

    async def run(self) -> None:
        while True:
            try:
                await follow(self._settings, self._saga, self._resume, self._see)
            except CommandError as error:
                if error.exit_code is not ExitCode.UNAVAILABLE:
                    await self._halt(error)
                elif not self._health.batches:
                    raise
                else:
                    await self._start_over(error)
            except PASSING as error:
                await self._start_over(error)

    def _resume(self, cluster: str) -> Path:
        return resume_file(self._settings, self._saga.name, cluster)

    async def _halt(self, error: CommandError) -> None:
        self._health.halted, self._health.ready = str(error), False
        self._log.critical("the audit has halted", why=str(error))
        await asyncio.sleep(_AGAIN)

    async def _start_over(self, error: Exception) -> None:
        self._health.ready = False
        self._health.restarts += 1
        self._log.warning("starting over", why=f"{type(error).__name__}: {error}")
        await asyncio.sleep(EVERY)

    def _see(self, look: AuditPass) -> None:
        health = self._health
        health.ready = True
        health.records += look.records
        health.batches += 1
        health.lag, health.oldest_ms = look.lag, look.oldest_ms
        health.halted = f"topics and database differ in {look.differing} places" if look.differing else ""
        metrics.AUDIT_DIFFERENCES.labels(self._saga.name).set(look.differing)
        self._tell(look.fresh)

    def _tell(self, fresh: Sequence[Difference]) -> None:
        for each in fresh[:_LOGGED]:
            self._log.critical("topics and database differ", **each._asdict())
        if len(fresh) > _LOGGED:
            self._log.critical("more differs", count=len(fresh) - _LOGGED)
