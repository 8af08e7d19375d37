"""`tradesaga audit verify --topics`: the topics by themselves, against what was signed of them."""

from collections.abc import Mapping, Sequence

import uvloop

from tradesaga.consumers.audit.log import store
from tradesaga.consumers.audit.options import progress_bar
from tradesaga.consumers.audit.replay.sealed_topics import TopicVerifier
from tradesaga.consumers.audit.verify.verification import Report
from tradesaga.consumers.saga_log.rules import Rules
from tradesaga.infra.audit_log.note import Verifier
from tradesaga.infra.audit_log.witness import WitnessFile
from tradesaga.infra.kafka.admin import count_partitions, read_cluster_id
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.kafka.topics import read_removals
from tradesaga.infra.postgres.database import session
from tradesaga.infra.registry.sagas import find_saga, registered_sagas
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.topics import checkpoints_topic, events_topic


def verify_topics(
    settings: Settings,
    trusted: Mapping[bytes, Verifier],
    witnesses: Sequence[WitnessFile],
    *,
    database: bool,
    saga: str | None = None,
) -> Report:
    """Verify the events topics of all registered sagas, or of one; without `database` none is asked for checkpoints.

    Raises `CommandError` where a saga, a server or a topic is not there, `WitnessError`.
    """
    known = registered_sagas(settings.app)
    sagas = known if saga is None else {saga: find_saga(saga, settings.app)}
    return uvloop.run(_verify(settings, trusted, witnesses, sagas, database=database, alone=saga is not None))


async def _verify(
    settings: Settings,
    trusted: Mapping[bytes, Verifier],
    witnesses: Sequence[WitnessFile],
    sagas: Mapping[str, AnySaga],
    *,
    database: bool,
    alone: bool,
) -> Report:
    brokers = settings.brokers()
    counts = await count_partitions(
        brokers, [topic(name) for name in sagas for topic in (events_topic, checkpoints_topic)]
    )

    async def read_sources() -> dict[str, list[str]]:
        # The database last: a checkpoint is written there before anybody else gets it, so none is missing between two.
        sources = {
            f"witness {number}": [each.note for each in witness.read()] for number, witness in enumerate(witnesses, 1)
        }
        if database:
            async with session(settings.database_for(SAGA_LOG), application_name="tradesaga audit") as sql:
                sources["database"] = [note for *_, note in await store.read_notes(sql)]
        return sources

    async with TopicReader(brokers) as topics:
        with progress_bar() as progress:
            task = progress.add_task("verifying", total=None)
            return await TopicVerifier(
                topics=topics,
                sagas=[Rules(saga, counts[events_topic(name)]) for name, saga in sagas.items()],
                log_id=settings.audit_log_id,
                cluster=await read_cluster_id(brokers),
                trusted=trusted,
                sources=read_sources,
                noted=[(topic, number) for topic in map(checkpoints_topic, sagas) for number in range(counts[topic])],
                sized=lambda total: progress.update(task, total=total),
                progress=lambda count: progress.advance(task, count),
                alone=alone,
                types=frozenset(kind for saga in sagas.values() for kind, _ in saga.registry.items()),
                removals=await read_removals(brokers, [events_topic(name) for name in sagas]),
            ).run()
