"""Run the saga log: one worker for each registered saga, and the search for unowned steps."""

import asyncio
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import structlog

from tradesaga.consumers.saga_log import store
from tradesaga.consumers.saga_log.commands import awaited_unowned
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.audit_log.seals import read_trust
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.inspector import KafkaInspector, open_inspector
from tradesaga.infra.kafka.topics import preflight
from tradesaga.infra.outbox.processor import Pace
from tradesaga.infra.outbox.worker import make_worker
from tradesaga.infra.postgres.database import Pool, open_pool
from tradesaga.infra.postgres.partitions import maintain_partitions
from tradesaga.infra.registry.participants import StepOwner, registered_participants, unowned_steps
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.schemas.topics import commands_topic, dead_letters_topic, events_topic

LATELY: Final = 86_400.0
"""Seconds for which a group without members counts as active after its lanes or its offsets have moved."""

# Lanes of this database; `claimed` if the group's service has started lately.
_LANES: Final = """
SELECT "group", partition, next_offset, claimed_at > clock_timestamp() - make_interval(secs => $2) AS claimed
FROM lane WHERE topic = $1
"""


async def groups_at_work(pool: Pool, brokers: str, topic: str, prefix: str, known: Collection[str]) -> set[str]:
    """Return the active groups of a topic, except the known ones; in Kafka only those with a prefix.

    Raises what PostgreSQL raises, and `KafkaUnavailableError`.
    """
    async with pool.acquire() as sql:
        lanes = [row for row in await sql.fetch(_LANES, topic, LATELY) if row["group"] not in known]
    working = {row["group"] for row in lanes if row["claimed"]}
    async with open_inspector(brokers) as inspector:
        offsets = {g: places for g, places in (await inspector.groups_of(topic, prefix)).items() if g not in known}
        for row in lanes:
            places, place = offsets.setdefault(row["group"], {}), (topic, row["partition"])
            places[place] = max(places.get(place, 0), row["next_offset"])
        working |= await inspector.with_members(offsets.keys() - working)
        left = {group: offsets[group] for group in offsets.keys() - working}
        return working | (await _moved(inspector, left) if left else set())


async def _moved(inspector: KafkaInspector, offsets: Mapping[str, Mapping[Partition, int]]) -> set[str]:
    """Return the groups with an offset right behind a record that was written lately."""
    ranges = await inspector.ranges({place for places in offsets.values() for place in places})
    found: set[str] = set()
    for group, places in offsets.items():
        last = {
            place: (offset - 1, offset)
            for place, offset in places.items()
            if place in ranges and ranges[place][0] < offset <= ranges[place][1]
        }
        times = [each.recorded_ms for records in (await inspector.read(last)).values() for each in records]
        # A producer may set any time, also in the future.
        if any(abs(inspector.now() / 1e9 - time / 1000) < LATELY for time in times):
            found.add(group)
    return found


INTERVAL: Final = 15.0
"""Seconds between two searches, and those to wait for a page's facts to be folded."""
PAGE: Final = 500
"""Sagas read and published at once."""

_FIRST: Final = (datetime.fromtimestamp(0, UTC), UUID(int=0))


class OwnerWatch:
    """Finds sagas that wait for unowned steps, and has the saga log publish `StepUnowned` for them."""

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
        """Search every `INTERVAL` seconds until cancelled; errors are logged and do not stop the search."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - a user's module may raise anything
                why = f"{type(error).__name__}: {error}"
                if why != self._why:
                    self._log.warning("cannot look for the owners of steps", why=why)
                self._why = why
            else:
                self._why = ""

    async def look(self) -> None:
        """Search once; sagas are read only if no registered participant binds some step.

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
        """Return the saga's steps that no registered participant binds."""
        if self._owners is None:
            self._owners = await asyncio.to_thread(registered_participants, self._settings)
        return unowned_steps(self._rules.saga, self._owners)

    async def _possibly_owned(self, unbound: Collection[str]) -> bool:
        """Return whether active groups that are not registered here may own such steps; they are logged."""
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
        """Return the sagas that wait for unbound steps, with those steps."""
        found: dict[UUID, Collection[str]] = {}
        pace = Pace()
        for each in page:
            if pace.is_due():
                await pace.turn()
            if steps := awaited_unowned(self._rules, each.version, each.state, unbound, parked=each.parked):
                found[each.saga_id] = steps
        return found


async def serve(settings: Settings) -> None:
    """Fold the facts of every registered saga until cancelled.

    Raises `CommandError` if a server is unavailable or a topic is refused.
    """
    sagas, trust = registered_sagas(settings.app), read_trust(settings)
    used = (events_topic, commands_topic, dead_letters_topic)
    counts = await preflight(settings, [topic(name) for name in sagas for topic in used])
    url = settings.database_for(SAGA_LOG)
    pool = await open_pool(url, max_size=len(sagas) + 2, application_name="tradesaga saga-log")
    async with pool, maintain_partitions(pool), asyncio.TaskGroup() as group:
        for name, saga in sagas.items():
            rules = Rules(saga, counts[events_topic(name)])
            processor = SagaLog(rules)
            owner = f"{processor.group}@{socket.gethostname()}:{os.getpid()}"
            worker = make_worker(processor, pool, settings, owner, service=SAGA_LOG, trust=trust)
            group.create_task(worker.run(), name=processor.group)
            group.create_task(OwnerWatch(settings, pool, rules, processor).run(), name=f"{processor.group} owners")
