"""A participant as a service: its own consumer group, its own connections, until it is cancelled."""

from tradesaga.consumers.participant import Participant
from tradesaga.consumers.runtime.history import check_history
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.infra.audit_log.seals import read_trust
from tradesaga.infra.kafka.preflight import preflight
from tradesaga.infra.outbox.ownership import owner_name
from tradesaga.infra.outbox.serving import make_worker
from tradesaga.infra.postgres.database import open_pool
from tradesaga.infra.postgres.partitions import maintain_partitions
from tradesaga.infra.settings import Settings
from tradesaga.schemas.topics import commands_topic, dead_letters_topic, events_topic


async def serve(participant: Participant, settings: Settings) -> None:
    """Run the participant until cancelled.

    Raises `CommandError` when a server is not there, a topic is refused, or another has done its steps.
    """
    saga = participant.saga.name
    events = events_topic(saga)
    counts = await preflight(settings, [events, commands_topic(saga), dead_letters_topic(saga)])
    url = settings.database_for(participant.name)
    pool = await open_pool(url, min_size=1, max_size=2, application_name=f"tradesaga {participant.name}")
    async with pool, maintain_partitions(pool):
        await check_history(participant, settings.brokers(), pool, counts[events])
        processor = StepProcessor(participant, partitions=counts[events], calls=settings.calls_in_flight)
        owner, trust = owner_name(participant.name), read_trust(settings)
        worker = make_worker(processor, pool, settings, owner, service=participant.name, trust=trust)
        with processor.watch.watching():
            await worker.run()
