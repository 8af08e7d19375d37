"""The worker of one consumer group in one process: it joins the group, and replaces a consumer that is stuck."""

import asyncio
from contextlib import AbstractContextManager, nullcontext

import structlog

from tradesaga.infra.audit_log.seals import SealTrust
from tradesaga.infra.kafka.admin import watching
from tradesaga.infra.outbox.commit import Committer
from tradesaga.infra.outbox.fetcher import WorkerSetup
from tradesaga.infra.outbox.guard import GroupFilter, Guard, group_filter_for, saga_of, watched_topics
from tradesaga.infra.outbox.membership import Membership
from tradesaga.infra.outbox.ports import Brokers
from tradesaga.infra.outbox.processor import HaltError, Processor
from tradesaga.infra.outbox.publish import SESSION_ERRORS
from tradesaga.infra.outbox.watchdog import Action, Patience, Watchdog, stuck_consumer_error
from tradesaga.infra.postgres.database import Pool
from tradesaga.infra.settings import Settings
from tradesaga.infra.telemetry.metrics import Health, register_worker

BATCH = 1000
"""Maximum number of records in one transaction."""
_HALTED = 2.0
"""Seconds after which a halted worker checks again."""


class Worker:
    """Runs one processor until it is cancelled, or until replacing the consumer does not help."""

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
        saga, topics = saga_of(processor.topics), processor.topics
        guard = Guard(brokers, saga, processor.group, topics, trust=trust, group_filter=group_filter)
        log, self.health = structlog.get_logger("worker").bind(group=processor.group), Health()
        self.setup = WorkerSetup(
            processor, pool, brokers, owner, guard, self.health, log, session_ms, batch, patience or Patience()
        )
        self._committer = Committer(processor, self.health, log)
        self._topics = {*topics, *watched_topics(saga)}
        self.membership: Membership | None = None
        """The present membership of the group, or the last one."""

    async def run(self) -> None:
        """Join the group and work; after a failure that may pass, start over with a growing pause.

        A stuck consumer is replaced. While database and topics do not belong together, the group is not joined, or is
        left. Raises `CommandError` when replacing the consumer does not help.
        """
        patience = self.setup.patience
        watchdog = Watchdog(patience)
        with self._watching_topics():
            while True:
                await self._wait_until_admitted()
                self.membership = Membership(self.setup, self._committer)
                try:
                    if await self.membership.run(watchdog) is Action.END:
                        raise stuck_consumer_error(self.setup.physical(self.setup.processor.group), patience.rebuilds)
                except HaltError as error:
                    self._halt(error)
                    continue
                self.health.restarts += 1
                self.setup.log.error("consumer replaced", why="it returns no records although the broker has some")

    def _watching_topics(self) -> AbstractContextManager[None]:
        """Acquire the lanes again when a topic changes; those of a simulation never do."""
        brokers = self.setup.brokers
        return watching(brokers, self._topics, self._doubt) if isinstance(brokers, str) else nullcontext()

    def _doubt(self) -> None:
        self.setup.log.warning("a topic has changed; the lanes are acquired again")
        if self.membership is not None:
            self.membership.doubt()

    async def _wait_until_admitted(self) -> None:
        """Wait, outside the group, until database and topics belong together."""
        pause = 0.05
        while True:
            try:
                async with self.setup.pool.acquire() as sql:
                    await self.setup.guard.check(sql)
            except HaltError as error:
                self._halt(error)
                pause = _HALTED
            except SESSION_ERRORS as error:
                self.health.restarts += 1
                self.setup.log.warning("not joined yet", why=f"{type(error).__name__}: {error}")
                pause = min(2 * pause, _HALTED)
            else:
                return
            await asyncio.sleep(pause)

    def _halt(self, error: HaltError) -> None:
        """Report why the group is halted, once for each reason."""
        self.health.fetches, self.health.lanes = False, 0
        if self.health.halted != str(error):
            self.health.halted = str(error)
            self.setup.log.critical("halted", why=str(error))


def make_worker(
    processor: Processor,
    pool: Pool,
    settings: Settings,
    owner: str,
    *,
    service: str,
    trust: SealTrust | None,
    batch: int = BATCH,
) -> Worker:
    """Make the worker of a group that uses the database of `service`, and export its health as metrics."""
    worker = Worker(
        processor,
        pool,
        settings.brokers(),
        owner,
        session_ms=settings.session_timeout_ms,
        batch=batch,
        trust=trust,
        group_filter=group_filter_for(settings, service),
    )
    register_worker(processor.group, worker.health)
    return worker
