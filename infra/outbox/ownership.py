"""Acquisition of lanes by an accepted group member, at offsets that the broker has, with no row left unpublished."""

import os
import socket
from collections.abc import Sequence
from uuid import uuid4

from tradesaga.infra.failpoints import Failpoint, reach
from tradesaga.infra.kafka.connections import REFUSALS, Partition
from tradesaga.infra.outbox import lane_rows, outbox_rows
from tradesaga.infra.outbox.guard import Guard
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.ports import ConsumerPort
from tradesaga.infra.outbox.processor import InDoubtError
from tradesaga.infra.outbox.publish import Publisher, PublishError, set_aside
from tradesaga.infra.postgres.database import Connection


def owner_name(service: str) -> str:
    """Return this process's name as an owner of lanes, as the lane table shows it."""
    return f"{service}@{socket.gethostname()}:{os.getpid()}"


def unique_owner_name(service: str) -> str:
    """Return an owner's name that no other process, and no other run of this one, uses."""
    return f"{owner_name(service)}-{uuid4().hex[:8]}"


async def acquire_lanes(
    consumer: ConsumerPort, sql: Connection, guard: Guard, places: Sequence[Partition], owner: str
) -> list[Lane]:
    """Acquire the lanes of these partitions. Raises `InDoubtError`, `HaltError`, `KafkaUnavailableError`."""
    await guard.check(sql)  # before committing to Kafka: its committed offsets may be the only evidence
    known = await lane_rows.read_offsets(sql, guard.group, places)
    # A member whose session has expired would fence the rightful owner.
    if known and not await consumer.commit(known, str(guard.identity)):
        raise InDoubtError("the group no longer knows this member; waiting to rejoin")
    lanes = await lane_rows.acquire(sql, guard.group, places, owner)
    reach(Failpoint.IN_CLAIM)
    if new := [lane for lane in lanes if lane.epoch == 1]:
        await _begin_lanes(consumer, sql, new)
    await guard.pin(sql)
    return lanes


async def _begin_lanes(consumer: ConsumerPort, sql: Connection, lanes: Sequence[Lane]) -> None:
    """Start new lanes at the first record that their partitions hold."""
    ranges = await consumer.ranges([(lane.topic, lane.partition) for lane in lanes])
    for lane in lanes:
        lane.next_offset = max(lane.next_offset, ranges[lane.topic, lane.partition][0])
    await lane_rows.advance(sql, lanes)
    for lane in lanes:
        lane.stored_offset = lane.next_offset


async def republish(sql: Connection, publisher: Publisher, lanes: Sequence[Lane]) -> None:
    """Publish the rows that a former owner may have left unpublished, before anything new is read.

    A row that the broker rejects for good is parked. Raises `InDoubtError`, `PublishError`.
    """
    try:
        for lane in lanes:
            await _publish_first(sql, publisher, lane)
            after = lane.acked_seq
            while rows := await outbox_rows.load_unpublished(sql, lane.id, after):
                await publisher.publish(rows)
                await publisher.room()
                after = rows[-1].seq
        await publisher.drain()
    except PublishError:
        await lane_rows.advance(sql, lanes)  # the first row after the watermark is then the rejected one
        raise


async def _publish_first(sql: Connection, publisher: Publisher, lane: Lane) -> None:
    """Publish the lane's first row by itself, so that a rejection is known to concern it."""
    rows = await outbox_rows.load_unpublished(sql, lane.id, lane.acked_seq, limit=1)
    if not rows:
        return
    try:
        await publisher.publish(rows)
        await publisher.drain()
    except PublishError:
        if isinstance(publisher.failure, REFUSALS):
            await set_aside(sql, lane, rows[0], publisher.failure)
        raise
