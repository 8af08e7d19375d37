"""Run a participant as a service."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from tradesaga.consumers.participant import Participant
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.infra.audit_log.seals import read_trust
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.names import physical_name
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.kafka.topics import preflight
from tradesaga.infra.outbox.ownership import owner_name
from tradesaga.infra.outbox.worker import make_worker
from tradesaga.infra.postgres.database import Pool, open_pool
from tradesaga.infra.postgres.partitions import maintain_partitions
from tradesaga.infra.settings import Settings
from tradesaga.schemas.envelope import STEP, TYPE
from tradesaga.schemas.messages.lifecycle import StepBarred, StepFailed
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.topics import commands_topic, dead_letters_topic, events_topic

WHOLE: Final = 20_000
"""Records up to which a topic is read whole; of a longer one, the first and last `EDGE` of each partition."""
EDGE: Final = 1000

KNOWN: Final = 'SELECT EXISTS (SELECT FROM lane WHERE "group" = $1)'


class Answer(NamedTuple):
    """An answer of a step, with the source that published it."""

    step: str
    source: str


async def check_history(participant: Participant, brokers: str, pool: Pool, partitions: int) -> None:
    """Refuse to start a new group if the topic has answers of its steps from another owner or database.

    Raises `CommandError` (exit 4), `KafkaUnavailableError`.
    """
    if await pool.fetchval(KNOWN, participant.group):
        return
    found = await _find_answer(participant, brokers, partitions)
    # Another process of the same service may have started meanwhile, and the answer may be its own.
    if found is None or await pool.fetchval(KNOWN, participant.group):
        return
    topic, other = physical_name(brokers, events_topic(participant.saga.name)), found.source.rsplit("/", 1)[-1]
    what = f"{participant.group} is new to this database, yet {topic} has answers of its step {found.step}"
    if other == participant.name:
        do = "it has worked with another database: name that one, or rebuild this one (`tradesaga recover database`)"
    else:
        do = (
            f"if {other} still runs, bind the step in one of the two; if this one takes its place, stop that one, then "
            f"`tradesaga recover begin {participant.name} --after {other}`, or `--at-end` to leave alone what was asked"
        )
    raise CommandError("history-of-another", f"{what}, given by {other}", topic, do, ExitCode.REFUSED)


def spans(ranges: Mapping[Partition, tuple[int, int]]) -> list[tuple[Partition, int, int]]:
    """Return the offset ranges to read: the whole topic, or the edges of each partition."""
    if sum(end - first for first, end in ranges.values()) <= WHOLE:
        return [(place, first, end) for place, (first, end) in sorted(ranges.items()) if first < end]
    found: list[tuple[Partition, int, int]] = []
    for place, (first, end) in sorted(ranges.items()):
        middle = max(first + EDGE, end - EDGE)
        found += [(place, first, min(first + EDGE, end)), (place, middle, end)]
    return [(place, first, end) for place, first, end in found if first < end]


class Answers:
    """Recognizes answers of a participant's steps."""

    def __init__(self, participant: Participant) -> None:
        saga = participant.saga.name
        self._types = participant.answer_types
        self._by_header = {wire_type(saga, each).encode() for each in (StepFailed, StepBarred)}
        self._steps = {name.encode() for name in participant.bindings}

    def read(self, record: Record) -> Answer | None:
        """Return the record's answer, or None if it is none."""
        ce_type, step = record.header(TYPE), record.header(STEP)
        source = record.header("ce_source").decode("utf-8", "replace")
        if (name := self._types.get(ce_type)) is not None:
            return Answer(name, source)
        if ce_type in self._by_header and step in self._steps:
            return Answer(step.decode(), source)
        return None


async def _find_answer(participant: Participant, brokers: str, partitions: int) -> Answer | None:
    answers, topic = Answers(participant), events_topic(participant.saga.name)
    async with TopicReader(brokers) as replay:
        ranges = await replay.ranges([(topic, number) for number in range(partitions)])
        for place, first, end in spans(ranges):
            async for batch in replay.read_remaining(place, first, end):
                for record in batch:
                    if (found := answers.read(record)) is not None:
                        return found
    return None


async def serve(participant: Participant, settings: Settings) -> None:
    """Run the participant until cancelled.

    Raises `CommandError` if a server is unavailable, a topic is refused, or its steps have another owner.
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
