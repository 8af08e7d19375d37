"""The auditor as a process, and as a command that ends when something differs."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from tradesaga.consumers.audit.replay.auditor import Auditor, AuditPass
from tradesaga.consumers.audit.replay.differences import Difference
from tradesaga.consumers.audit.replay.state import Identity, ReplayState, file_for
from tradesaga.consumers.saga_log.rules import Rules
from tradesaga.infra.clock import elapsed
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.admin import count_partitions, read_cluster_id
from tradesaga.infra.kafka.errors import KafkaUnavailableError
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.postgres.database import session
from tradesaga.infra.postgres.errors import DATABASE_ERRORS
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.worker_health import Health
from tradesaga.sagas.definition import AnySaga

EVERY: Final = 1.0
"""Seconds between two looks, once there is nothing left to catch up with."""
_AGAIN: Final = 10.0
"""Seconds until what only a person can mend is tried again."""
_TOLD: Final = 20
"""Differences that one look puts into the log; more are counted."""
PASSING: Final = (KafkaUnavailableError, TimeoutError, *DATABASE_ERRORS)
Seen = Callable[[AuditPass], object]


async def serve(settings: Settings) -> None:
    """Audit every registered saga until cancelled. Raises `CommandError` when a server is not there at the start."""
    async with asyncio.TaskGroup() as group:
        for name, saga in registered_sagas(settings.app).items():
            group.create_task(_Watch(settings, saga).run(), name=f"audit {name}")


def resume_file(settings: Settings, saga: str, cluster: str) -> Path:
    """Name the file from which the auditor of a saga goes on; on another cluster, as after a loss, it begins anew."""
    return settings.home / f"audit-replay-{saga}-{cluster}.db"


async def follow(settings: Settings, saga: AnySaga, resume: Callable[[str], Path | None], seen: Seen) -> None:
    """Look again and again, and tell what was seen; ends only by what `seen` raises.

    `resume` names the file to go on from, for a cluster's id.
    Raises `CommandError`, `KafkaUnavailableError` and the database's errors.
    """
    topic = Rules(saga).topic
    counts = await count_partitions(settings.brokers(), [topic])
    cluster = await read_cluster_id(settings.brokers())
    rules = Rules(saga, counts[topic])
    identity = Identity.of(rules, cluster, "auditor")
    with ReplayState(file_for(resume(cluster), identity), identity, rules) as replay_state:
        seen(AuditPass(fresh=replay_state.differences(_TOLD), differing=replay_state.counts.get("differing", 0)))
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
    """One saga's auditor, begun again whenever a server was away, and what is to be known of it."""

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
        health.ready, health.committed = True, elapsed()
        health.records += look.records
        health.batches += 1
        health.lag, health.oldest_ms = look.lag, look.oldest_ms
        health.halted = f"topics and database differ in {look.differing} places" if look.differing else ""
        metrics.AUDIT_DIFFERENCES.labels(self._saga.name).set(look.differing)
        self._tell(look.fresh)

    def _tell(self, fresh: Sequence[Difference]) -> None:
        for each in fresh[:_TOLD]:
            self._log.critical("topics and database differ", **each._asdict())
        if len(fresh) > _TOLD:
            self._log.critical("more differs", count=len(fresh) - _TOLD)
