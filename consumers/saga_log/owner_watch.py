"""Watches for sagas that wait past their deadlines for a step that nobody owns.

A step has no owner if no participant that is registered here binds it, and no group that is not registered here is at
work on the saga's commands. What follows is safe even where that is wrong: see
`docs/decisions/0017-sagas-that-nobody-ends.md`.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import structlog

from tradesaga.consumers.saga_log import store
from tradesaga.consumers.saga_log.possible_owners import groups_at_work
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.rules import Rules
from tradesaga.consumers.saga_log.unowned_steps import awaited_unowned
from tradesaga.infra.outbox.pace import Pace
from tradesaga.infra.postgres.database import Pool
from tradesaga.infra.registry.participants import StepOwner, registered_participants, unowned_steps
from tradesaga.infra.settings import Settings
from tradesaga.schemas.topics import commands_topic

INTERVAL: Final = 15.0
"""Seconds between two looks, and those that a page of sagas has to be folded before the next one is read."""
PAGE: Final = 500
"""Sagas read, and published, at once."""
_FIRST: Final = (datetime.fromtimestamp(0, UTC), UUID(int=0))


class OwnerWatch:
    """Looks for such sagas of one definition and has the saga log publish what is missing."""

    def __init__(self, settings: Settings, pool: Pool, rules: Rules, log: SagaLog) -> None:
        self._settings = settings
        self._pool = pool
        self._rules = rules
        self._saga_log = log
        self._owners: Sequence[StepOwner] | None = None
        self._possible: Collection[str] = ()
        self._why = ""
        self._log = structlog.get_logger("saga-log").bind(saga=rules.saga.name)

    async def run(self) -> None:
        """Look again and again, until cancelled; what cannot be known now may be known at the next look."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - a team's module may raise anything; folding goes on meanwhile
                why = f"{type(error).__name__}: {error}"
                if why != self._why:
                    self._log.warning("owners of steps cannot be looked for", why=why)
                self._why = why
            else:
                self._why = ""

    async def look(self) -> None:
        """Look once; sagas are looked for only if some step is bound by no participant that is registered here.

        Raises what PostgreSQL, Kafka, or a participant that cannot be loaded raises.
        """
        unbound = await self.find_unbound()
        last = _FIRST
        while unbound and (page := await self._page(last)):
            last = page[-1].deadline, page[-1].saga_id
            found = await self._awaiting(page, unbound)
            if not found:
                continue
            if await self._possibly_owned(unbound):
                return
            await self._saga_log.report_unowned(found, INTERVAL)

    async def find_unbound(self) -> Collection[str]:
        """Return the saga's steps that no participant registered here binds."""
        if self._owners is None:
            self._owners = await asyncio.to_thread(registered_participants, self._settings)
        return unowned_steps(self._rules.saga, self._owners)

    async def _possibly_owned(self, unbound: Collection[str]) -> bool:
        """Return whether groups are at work that are not registered here and may own such steps; they are logged."""
        known = {each.group for each in self._owners or ()} | {self._saga_log.group}
        name = self._rules.saga.name
        found = await groups_at_work(self._pool, self._settings.brokers(), commands_topic(name), f"{name}-", known)
        possible = sorted(found)
        if possible and possible != self._possible:
            groups = ", ".join(possible)
            self._log.warning("steps may be owned by groups that are not registered here", steps=unbound, groups=groups)
        self._possible = possible
        return bool(possible)

    async def _page(self, after: tuple[datetime, UUID]) -> list[store.Late]:
        log, page = self._saga_log, store.Page(*after, self._settings.unowned_seconds, PAGE)
        async with self._pool.acquire() as sql:
            return await store.find_late(sql, self._rules, log.group, log.lanes, page)

    async def _awaiting(self, page: Sequence[store.Late], unbound: Collection[str]) -> Mapping[UUID, Collection[str]]:
        """Return the sagas that wait for such steps, with these."""
        found: dict[UUID, Collection[str]] = {}
        pace = Pace()
        for each in page:
            if pace.is_due():
                await pace.turn()
            if steps := awaited_unowned(self._rules, each.version, each.state, unbound, parked=each.parked):
                found[each.saga_id] = steps
        return found
