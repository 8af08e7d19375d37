"""The saga log as a process: one worker for each registered saga."""

import asyncio
import os
import socket

from tradesaga.consumers.saga_log.owner_watch import OwnerWatch
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.rules import Rules
from tradesaga.infra.audit_log.seals import read_trust
from tradesaga.infra.kafka.preflight import preflight
from tradesaga.infra.outbox.serving import make_worker
from tradesaga.infra.postgres.database import open_pool
from tradesaga.infra.postgres.partitions import maintain_partitions
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.schemas.topics import commands_topic, dead_letters_topic, events_topic


async def serve(settings: Settings) -> None:
    """Fold the facts of every registered saga until cancelled.

    Raises `CommandError` when a server is not there, or a topic is refused.
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
