"""Taking lanes over: as a member in good standing, from offsets that the broker has, with nothing left unpublished."""

from collections.abc import Sequence

from infra.database import Connection
from infra.failpoints import Failpoint, reach
from infra.kafka import REFUSALS, Place
from infra.lanes import outbox, store
from infra.lanes.clients import ConsumerPort
from infra.lanes.processor import InDoubtError, OffsetRangeError
from infra.lanes.publisher import Publisher, PublishError
from infra.lanes.refusal import set_aside
from infra.lanes.store import Lane


async def claim_lanes(
    consumer: ConsumerPort, sql: Connection, group: str, places: Sequence[Place], owner: str
) -> list[Lane]:
    """Claim the lanes of these partitions. Raises `InDoubtError`, `OffsetRangeError`, `KafkaUnavailableError`."""
    known = await store.read_offsets(sql, group, places)
    if not known:
        await _check_history(consumer, group, places)
    # One that slept past its session would fence the rightful owner.
    elif not await consumer.commit(known):
        raise InDoubtError("the group does not know this member now; waiting to join again")
    lanes = await store.claim(sql, group, places, owner)
    reach(Failpoint.IN_CLAIM)
    await _check_offsets(consumer, lanes)
    if new := [lane for lane in lanes if lane.epoch == 1 and lane.next_offset]:
        await store.advance(sql, new, {})
    return lanes


async def _check_history(consumer: ConsumerPort, group: str, places: Sequence[Place]) -> None:
    """Refuse a database that knows nothing of a group which has worked before: it would do everything once more."""
    passed = {place: offset for place, offset in (await consumer.committed(places)).items() if offset}
    if passed:
        (topic, partition), offset = min(passed.items())
        raise OffsetRangeError(
            f"the database knows nothing of {group}, yet Kafka has it at offset {offset} of {topic}[{partition}]: it "
            f"has worked with another database; name that one, or rebuild this one with `tradesaga recover`; only to "
            f"have every record handled once more, delete the group {group} in Kafka"
        )


async def _check_offsets(consumer: ConsumerPort, lanes: Sequence[Lane]) -> None:
    ranges = await consumer.ranges([(lane.topic, lane.partition) for lane in lanes])
    for lane in lanes:
        first, following = ranges[lane.topic, lane.partition]
        if lane.epoch == 1:
            lane.next_offset = first
        if not first <= lane.next_offset <= following:
            raise OffsetRangeError(
                f"{lane.topic}[{lane.partition}]: the database is at offset {lane.next_offset}, the broker holds "
                f"{first} to {following}; nothing is read until a person has said which is right"
            )


async def republish(sql: Connection, publisher: Publisher, lanes: Sequence[Lane]) -> None:
    """Publish what the former owner may have left unpublished, before anything new is read.

    A row that the broker refuses for good is parked. Raises `InDoubtError`, `PublishError`.
    """
    try:
        for lane in lanes:
            await _publish_first(sql, publisher, lane)
            after = lane.acked_seq
            while rows := await outbox.load_unpublished(sql, lane.id, after):
                await publisher.publish(rows)
                await publisher.room()
                after = rows[-1].seq
        await publisher.drain()
    except PublishError:
        await store.advance(sql, lanes, {})  # the first row not marked is then the one that the broker has refused
        raise


async def _publish_first(sql: Connection, publisher: Publisher, lane: Lane) -> None:
    """Publish the lane's first row by itself, so that it is known to be the one that is refused, if any is."""
    rows = await outbox.load_unpublished(sql, lane.id, lane.acked_seq, limit=1)
    if not rows:
        return
    try:
        await publisher.publish(rows)
        await publisher.drain()
    except PublishError:
        if isinstance(publisher.failure, REFUSALS):
            await set_aside(sql, lane, rows[0], publisher.failure)
        raise
