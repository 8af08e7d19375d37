"""Reads the last signed checkpoint of each partition from the checkpoints topic, independently of the database."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tradesaga.infra.audit_log.checkpoint import Checkpoint, Origin, parse_unverified
from tradesaga.infra.audit_log.note import NoteError, Verifier, open_note, public_path, read_trusted
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.inspector import Inspector
from tradesaga.infra.kafka.topic_reader import ReadLimit, read_back
from tradesaga.infra.settings import Settings
from tradesaga.schemas.topics import checkpoints_topic, events_topic

BOUND: Final = ReadLimit(10_000, 16 * 1024 * 1024)
"""Records at the end of the topic, and their bytes, that are searched for the last checkpoints."""
_PROMPT_NS: Final = 60 * 10**9
"""Nanoseconds, by the broker's clock, within which the sealer publishes what it signs."""


@dataclass(frozen=True, slots=True)
class SealTrust:
    """The installation's log id in checkpoints, and the trusted public keys by id."""

    log_id: str
    keys: Mapping[bytes, Verifier]


def read_trust(settings: Settings) -> SealTrust | None:
    """Return whose checkpoints are trusted, None where the public key cannot be read.

    Raises `CommandError` (exit 2) for a file that holds no keys.
    """
    path = public_path(settings.audit_key_file())
    return SealTrust(settings.audit_log_id, read_trusted([path])) if os.access(path, os.R_OK) else None


async def read_seals(inspector: Inspector, saga: str, trust: SealTrust) -> dict[Partition, Checkpoint]:
    """Return the last checkpoint of each partition of the saga's facts. Raises `KafkaUnavailableError`.

    Anybody may write to the topic: notes without a trusted signature are ignored. It is read backwards until each
    partition's last checkpoint is found, or up to `BOUND`.
    """
    topic, events = checkpoints_topic(saga), events_topic(saga)
    there = await inspector.topics([topic, events])
    if topic not in there:
        return {}
    ranges = await inspector.ranges([(name, number) for name in there for number in range(there[name].partitions)])
    sought = {place for place, (_, end) in ranges.items() if place[0] == events and end > 0}
    found, prompt = dict[Partition, Checkpoint](), set[Partition]()

    def take(records: Sequence[Record]) -> None:
        claims = [(claim, record) for record in records if (claim := _read(record)) is not None]
        for (checkpoint, note), record in sorted(claims, key=lambda claim: claim[0][0].size, reverse=True):
            origin = Origin.parse(checkpoint.origin)
            place = origin[1:]
            if (origin.log_id, origin.topic) != (trust.log_id, events):
                continue
            larger = place not in found or checkpoint.size > found[place].size
            same = not larger and checkpoint == found[place] and place not in prompt
            if (larger or same) and _is_signed(note, trust):
                found[place] = checkpoint
                if _is_prompt(checkpoint, record):
                    prompt.add(place)

    tails = {place: each for place, each in ranges.items() if place[0] == topic}
    await read_back(inspector, tails, BOUND, take, lambda: sought <= prompt)
    return found


def _is_prompt(checkpoint: Checkpoint, record: Record) -> bool:
    """Return whether a checkpoint was published right after it was signed, as the sealer does.

    Anybody may publish an old checkpoint again, which tells nothing about later ones.
    """
    return record.recorded_ms * 1_000_000 - checkpoint.time <= _PROMPT_NS


def find_sealed_ahead(
    seals: Mapping[Partition, Checkpoint], read: Mapping[Partition, int], ends: Mapping[Partition, int]
) -> tuple[Partition, int] | None:
    """Return a partition that is sealed beyond what the saga log has read, with the sealed offset; None if none is.

    Only what the saga log had read was sealed, and offsets in the database only grow. A checkpoint beyond the end of
    its partition is ignored here: earlier releases signed forged rows.
    """
    for place, seal in sorted(seals.items()):
        if read.get(place, 0) < seal.next_offset <= ends.get(place, 0):
            return place, seal.next_offset
    return None


def _read(record: Record) -> tuple[Checkpoint, str] | None:
    with suppress(NoteError, UnicodeDecodeError):
        note = record.value.decode()
        checkpoint = parse_unverified(note)
        Origin.parse(checkpoint.origin)
        return checkpoint, note
    return None


def _is_signed(note: str, trust: SealTrust) -> bool:
    with suppress(NoteError):
        return bool(open_note(note, trust.keys)[1])
    return False
