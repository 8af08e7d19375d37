"""Groups that are not registered here and may own a step all the same: those at work on the saga's commands.

Which steps a group owns cannot be known of another installation. That it is at work can: it has members, or its offsets
moved within a day. What a service leaves behind that was removed or renamed, and a stranger's group, count no longer
than that.
"""

from collections.abc import Collection, Mapping
from typing import Final

from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.kafka.identity import KafkaInspector, open_inspector
from tradesaga.infra.postgres.database import Pool

LATELY: Final = 86_400.0
"""Seconds for which a group without members counts as one at work after its lanes or its offsets have moved."""
# Of this database; `claimed` if the group's service has started lately.
_LANES: Final = """
SELECT "group", partition, next_offset, claimed_at > clock_timestamp() - make_interval(secs => $2) AS claimed
FROM lane WHERE topic = $1
"""


async def groups_at_work(pool: Pool, brokers: str, topic: str, prefix: str, known: Collection[str]) -> set[str]:
    """Return the groups, but for the known ones, that are at work on a topic; in Kafka those named with a prefix.

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


async def _moved(inspector: KafkaInspector, offsets: Mapping[str, Mapping[Place, int]]) -> set[str]:
    """Return the groups that have read a record written lately: the last one before one of their offsets is."""
    ranges = await inspector.ranges({place for places in offsets.values() for place in places})
    found: set[str] = set()
    for group, places in offsets.items():
        last = {
            place: (offset - 1, offset)
            for place, offset in places.items()
            if place in ranges and ranges[place][0] < offset <= ranges[place][1]
        }
        times = [each.recorded_ms for records in (await inspector.read(last)).values() for each in records]
        # A stranger may date a record as they like, also in the future.
        if any(abs(inspector.now() / 1e9 - time / 1000) < LATELY for time in times):
            found.add(group)
    return found
