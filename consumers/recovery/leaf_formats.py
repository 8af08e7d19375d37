"""Which records of a topic were sealed with hashes of an older format, so that their rows, made anew, get the same."""

from collections.abc import Iterable
from contextlib import suppress

from tradesaga.infra.audit_log.checkpoint import Checkpoint, leaves_from, parse_unverified
from tradesaga.infra.audit_log.note import NoteError
from tradesaga.infra.audit_log.origin import Origin
from tradesaga.infra.audit_log.witness import WitnessError, WitnessFile
from tradesaga.infra.errors import CommandError, unavailable
from tradesaga.infra.kafka.admin import count_partitions
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.settings import Settings
from tradesaga.schemas.topics import checkpoints_topic


async def find_leaf_formats(settings: Settings, replay: TopicReader, topic: str) -> dict[Place, int]:
    """Return, of each sealed log of a topic, the first offset whose hash is of format 2.

    The witness and the topic of checkpoints are asked; a false answer makes rows that do not fit what was sealed, which
    the sealer finds. Raises `CommandError` (exit 5) for a witness that cannot be read, `KafkaUnavailableError`.
    """
    known: dict[Place, list[Checkpoint]] = {}
    for checkpoint in [*_witnessed(settings), *await _published(settings, replay, topic.removesuffix(".events"))]:
        origin = Origin.parse(checkpoint.origin)
        if origin.log_id == settings.audit_log_id and origin.topic == topic:
            known.setdefault((topic, origin.partition), []).append(checkpoint)
    return {place: leaves_from(checkpoints) for place, checkpoints in known.items()}


def _witnessed(settings: Settings) -> list[Checkpoint]:
    try:
        return _read(each.note for each in WitnessFile(settings.audit_witness_file()).last().values())
    except WitnessError as error:
        do = "see to it that the file can be read, and is the one that TRADESAGA_AUDIT_WITNESS names"
        raise unavailable("witness-invalid", str(error), "witness", do) from error


async def _published(settings: Settings, replay: TopicReader, saga: str) -> list[Checkpoint]:
    name = checkpoints_topic(saga)
    try:
        counts = await count_partitions(settings.brokers(), [name])
    except CommandError:
        return []  # an installation that has never had the topic
    found: list[Checkpoint] = []
    for place, (begin, end) in (await replay.ranges([(name, number) for number in range(counts[name])])).items():
        newest: dict[bytes | None, str] = {}
        async for batch in replay.read_remaining(place, begin, end):
            newest |= {record.key: record.value.decode("utf-8", "replace") for record in batch}
        found += _read(newest.values())
    return found


def _read(notes: Iterable[str]) -> list[Checkpoint]:
    """Read checkpoints; what is none is passed over."""
    found: list[Checkpoint] = []
    for note in notes:
        with suppress(NoteError):
            checkpoint = parse_unverified(note)
            Origin.parse(checkpoint.origin)
            found.append(checkpoint)
    return found
