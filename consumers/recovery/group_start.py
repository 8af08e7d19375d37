"""Where a participant's group begins, decided by a person: after another one's, or behind all that was asked so far."""

from collections.abc import Mapping, Sequence
from typing import Final

from tradesaga.consumers.participant import Participant
from tradesaga.consumers.runtime.history import KNOWN
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.admin import count_partitions, read_ends
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.infra.registry.participants import registered_participants
from tradesaga.infra.settings import Settings
from tradesaga.schemas.topics import commands_topic, events_topic

_BEGIN: Final = """
INSERT INTO lane ("group", topic, partition, epoch, next_offset)
SELECT $1, * FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[]) AS t (topic, partition, epoch, next_offset)
"""
_RUNNING: Final = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1)
"""
_OFFSETS: Final = 'SELECT topic, partition, next_offset FROM lane WHERE "group" = $1'


async def begin_group(settings: Settings, name: str, after: str | None) -> dict[Place, int]:
    """Have the group of a participant that is new to its database begin; returns its offsets.

    It begins where the group of participant `after` has stopped, or else at the ends of its topics. Raises
    `CommandError`: exit 3 for an unknown participant, or a group `after` that has never worked, exit 4 where the group
    has begun or one of the two services still runs.
    """
    participant = _find(settings, name)
    topics = [events_topic(participant.saga.name), commands_topic(participant.saga.name)]
    counts = await count_partitions(settings.brokers(), topics)
    places = [(topic, number) for topic in topics for number in range(counts[topic])]
    async with session(settings.database_for(name), application_name="tradesaga recover begin") as sql:
        await _refuse_running(sql, name)
        if await sql.fetchval(KNOWN, participant.group):
            what, do = f"the group {participant.group} has begun already", "start its service: it goes on where it was"
            raise CommandError("group-begun", what, "PostgreSQL", do, ExitCode.REFUSED)
        if after is None:
            offsets = await read_ends(settings.brokers(), places)
        else:
            offsets = await _offsets_of(settings, f"{participant.saga.name}-{after}", after, places)
        await _begin(sql, participant.group, offsets)
    return offsets


def _find(settings: Settings, name: str) -> Participant:
    known = [each for each in registered_participants(settings) if isinstance(each, Participant)]
    for participant in known:
        if participant.name == name:
            return participant
    do = f"known: {', '.join(sorted(each.name for each in known))}; give its module with TRADESAGA_APP"
    what = f"there is no participant {name}"
    raise CommandError("participant-unknown", what, "recover begin", do, ExitCode.NOT_FOUND)


async def _offsets_of(settings: Settings, group: str, name: str, places: Sequence[Place]) -> dict[Place, int]:
    """Read how far the other group is, from its own database: what Kafka was told may be seconds old."""
    async with session(settings.database_for(name), application_name="tradesaga recover begin") as sql:
        await _refuse_running(sql, name)
        rows = await sql.fetch(_OFFSETS, group)
    found = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
    if missing := [place for place in places if place not in found]:
        what = f"the database of {name} knows nothing of group {group} on {missing[0][0]}[{missing[0][1]}]"
        do = f"name its database in TRADESAGA_DATABASE_URL_{name.upper()}"
        raise CommandError("group-unknown", what, "PostgreSQL", do, ExitCode.NOT_FOUND)
    return {place: found[place] for place in places}


async def _refuse_running(sql: Connection, name: str) -> None:
    if await sql.fetchval(_RUNNING, f"tradesaga {name}"):
        what, do = f"the service {name} is connected", "stop it first, then run this again"
        raise CommandError("service-running", what, "PostgreSQL", do, ExitCode.REFUSED)


async def _begin(sql: Connection, group: str, offsets: Mapping[Place, int]) -> None:
    """Write the lanes as if they had been claimed once: a new lane would begin with the first record there is."""
    topics, numbers = zip(*offsets, strict=True)
    await sql.execute(_BEGIN, group, topics, numbers, [1] * len(offsets), list(offsets.values()))
