"""What the sealer has signed last of each partition, as the topic of checkpoints tells, whatever the database says."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from infra.audit.checkpoint import Checkpoint, read_unverified
from infra.audit.keyring import public_path, read_trusted
from infra.audit.note import NoteError, Verifier, open_note
from infra.audit.origin import Origin
from infra.codec import Record
from infra.kafka import Place
from infra.kafka_identity import Inspector
from infra.settings import Settings
from schemas.topics import checkpoints_topic, events_topic

TAIL: Final = 300
"""Records at the end of each partition of the topic among which the last checkpoints are looked for."""


@dataclass(frozen=True, slots=True)
class SealTrust:
    """What checkpoints call this installation, and the public keys, by id, whose signatures are believed."""

    log_id: str
    keys: Mapping[bytes, Verifier]


def read_trust(settings: Settings) -> SealTrust | None:
    """Return whose checkpoints are believed, None where the public key is not to be read here.

    Raises `CommandError` (exit 2) for a file that holds no keys.
    """
    path = public_path(settings.audit_key_file())
    return SealTrust(settings.audit_log_id, read_trusted([path])) if os.access(path, os.R_OK) else None


async def read_seals(inspector: Inspector, saga: str, trust: SealTrust) -> dict[Place, Checkpoint]:
    """Return the last checkpoint of each partition of the saga's facts. Raises `KafkaUnavailableError`.

    Anybody may write to the topic: what no trusted key has signed is passed over.
    """
    topic = checkpoints_topic(saga)
    there = await inspector.topics([topic])
    places = [(topic, number) for number in range(there[topic].partitions)] if there else []
    tails = {place: (max(first, end - TAIL), end) for place, (first, end) in (await inspector.ranges(places)).items()}
    records = [record for read in (await inspector.read(tails)).values() for record in read]
    claims = [claim for record in records if (claim := _read(record)) is not None]
    found: dict[Place, Checkpoint] = {}
    for checkpoint, note in sorted(claims, key=lambda claim: claim[0].size, reverse=True):
        origin = Origin.parse(checkpoint.origin)
        wanted = (origin.log_id, origin.topic) == (trust.log_id, events_topic(saga))
        if wanted and origin[1:] not in found and _is_signed(note, trust):
            found[origin[1:]] = checkpoint
    return found


def find_ahead(
    seals: Mapping[Place, Checkpoint], read: Mapping[Place, int], ends: Mapping[Place, int]
) -> tuple[Place, int] | None:
    """Return a partition that is sealed further than the saga log has read it, and up to which offset; None if none is.

    Only what the saga log had read was sealed, and offsets in the database only grow. A checkpoint beyond the end of
    its partition is left to others: releases before signed rows that somebody had planted.
    """
    for place, seal in sorted(seals.items()):
        if read.get(place, 0) < seal.next_offset <= ends.get(place, 0):
            return place, seal.next_offset
    return None


def _read(record: Record) -> tuple[Checkpoint, str] | None:
    with suppress(NoteError, UnicodeDecodeError):
        note = record.value.decode()
        checkpoint = read_unverified(note)
        Origin.parse(checkpoint.origin)
        return checkpoint, note
    return None


def _is_signed(note: str, trust: SealTrust) -> bool:
    with suppress(NoteError):
        return bool(open_note(note, trust.keys)[1])
    return False
