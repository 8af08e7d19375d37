"""Watches for sagas that wait past their deadlines for a step that nobody owns.

A step has no owner if no participant that is registered here binds it, and no group that is not registered here has
ever worked on the saga's commands: neither in this database nor by the offsets that Kafka keeps. What follows is safe
even where that is wrong: see `docs/decisions/0017-sagas-that-nobody-ends.md`.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final
from uuid import UUID

import structlog

from consumers.saga_log.processor import SagaLog, awaited_unowned
from consumers.saga_log.rules import Rules
from consumers.saga_log.store import load
from infra.database import Pool
from infra.kafka_identity import inspecting
from infra.owners import StepOwner, registered_owners, unowned_steps
from infra.settings import Settings
from schemas.topics import commands_topic

INTERVAL: Final = 15.0
"""Seconds between two looks."""
_PAGE: Final = 1000
# Materialized, so that sagas are found by their states: most have ended, and a limit would have those read too.
WAITING: Final = """
WITH late AS MATERIALIZED (
    SELECT saga_id FROM saga
    WHERE name = $1 AND state IN ('RUNNING', 'COMPENSATING')
        AND deadline <= clock_timestamp() - make_interval(secs => $2)
)
SELECT saga_id FROM late WHERE saga_id > $3 ORDER BY saga_id LIMIT $4
"""
_GROUPS: Final = 'SELECT DISTINCT "group" FROM lane WHERE topic = $1'


class OwnerWatch:
    """Looks for such sagas of one definition and has the saga log publish what is missing."""

    def __init__(self, settings: Settings, pool: Pool, rules: Rules, log: SagaLog) -> None:
        self._settings = settings
        self._pool = pool
        self._rules = rules
        self._saga_log = log
        self._owners: Sequence[StepOwner] | None = None
        self._possible: Collection[str] = ()
        self._log = structlog.get_logger("saga-log").bind(saga=rules.saga.name)

    async def run(self) -> None:
        """Look again and again, until cancelled; what cannot be known now may be known at the next look."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - a team's module may raise anything; folding goes on meanwhile
                self._log.warning("owners of steps cannot be looked for", why=f"{type(error).__name__}: {error}")

    async def look(self) -> None:
        """Look once. Raises what PostgreSQL, Kafka, or a participant that cannot be loaded raises."""
        first = await self._page(UUID(int=0), 1)
        unowned = await self.find_unowned() if first else ()
        if not unowned:
            return
        found: dict[UUID, Collection[str]] = {}
        last = UUID(int=0)
        while page := await self._page(last, _PAGE):
            last = page[-1]
            found |= await self._missing(page, unowned)
        if found:
            self._saga_log.report_unowned(found)

    async def find_unowned(self) -> Collection[str]:
        """Return the saga's steps without an owner; none while a group is known that may own some of them."""
        if self._owners is None:
            self._owners = await asyncio.to_thread(registered_owners, self._settings)
        unowned = unowned_steps(self._rules.saga, self._owners)
        if not unowned:
            return ()
        known = {each.group for each in self._owners} | {self._saga_log.group}
        possible = sorted((await self._groups()) - known)
        if possible and possible != self._possible:
            groups = ", ".join(possible)
            self._log.warning("steps may be owned by groups that are not registered here", steps=unowned, groups=groups)
        self._possible = possible
        return () if possible else unowned

    async def _groups(self) -> set[str]:
        """Return the groups that have worked on the saga's commands."""
        topic = commands_topic(self._rules.saga.name)
        async with self._pool.acquire() as sql:
            here = {row["group"] for row in await sql.fetch(_GROUPS, topic)}
        async with inspecting(self._settings.brokers()) as inspector:
            return here | await inspector.groups_of(topic, f"{self._rules.saga.name}-")

    async def _page(self, after: UUID, limit: int) -> list[UUID]:
        async with self._pool.acquire() as sql:
            grace = self._settings.unowned_seconds
            return [row["saga_id"] for row in await sql.fetch(WAITING, self._rules.saga.name, grace, after, limit)]

    async def _missing(self, sagas: Sequence[UUID], unowned: Collection[str]) -> Mapping[UUID, Collection[str]]:
        async with self._pool.acquire() as sql:
            checkpoints = await load(sql, self._rules, sagas)
        missing = {saga: awaited_unowned(self._rules, each, unowned) for saga, each in checkpoints.items()}
        return {saga: steps for saga, steps in missing.items() if steps}
