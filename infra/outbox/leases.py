"""Lanes without a Kafka partition: leased by the database's clock, each time under a new epoch."""

from datetime import timedelta

import asyncpg

from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.postgres.database import Connection

LaneGroup = tuple[str, str]
"""A group and its topic, whose lanes the group's writers share."""

_DECLARE = """
INSERT INTO lane ("group", topic, partition)
SELECT $1, $2, number FROM generate_series(0, $3::int - 1) AS number
ON CONFLICT ("group", topic, partition) DO NOTHING
"""

# A locked lane row belongs to an open transaction: it is skipped, never waited for.
_TAKE = """
UPDATE lane SET epoch = epoch + 1, owner = $3, claimed_at = clock_timestamp(), lease_until = clock_timestamp() + $4
WHERE id = (
    SELECT id FROM lane
    WHERE "group" = $1 AND topic = $2 AND id <> $5
        AND (lease_until IS NULL OR lease_until < clock_timestamp() OR owner = $3)
        AND (last_seq > published_seq OR NOT $6)
    ORDER BY owner = $3 DESC, last_seq > published_seq DESC, partition
    LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, topic, partition, epoch, next_offset, last_seq, published_seq
"""

_RENEW = """
UPDATE lane SET lease_until = clock_timestamp() + $2, published_seq = greatest(published_seq, $3), last_seq = $4
WHERE id = $1
"""

_RELEASE = """
UPDATE lane SET published_seq = greatest(published_seq, $3), lease_until = NULL, owner = ''
WHERE id = $1 AND epoch = $2
"""


async def declare(sql: Connection, place: LaneGroup, count: int) -> None:
    """Create the group's lanes, numbered from 0, where they are missing."""
    await sql.execute(_DECLARE, *place, count)


async def acquire(sql: Connection, place: LaneGroup, owner: str, lease: timedelta) -> Lane | None:
    """Lease a free or expired lane under a new epoch, preferably this owner's last one; None if all are leased."""
    return _lane(await sql.fetchrow(_TAKE, *place, owner, lease, 0, False))


async def take_over(sql: Connection, place: LaneGroup, owner: str, lease: timedelta, mine: int) -> Lane | None:
    """Lease a free or expired lane that has unpublished rows, other than `mine`; None if there is none."""
    return _lane(await sql.fetchrow(_TAKE, *place, owner, lease, mine, True))


async def renew(sql: Connection, lane: Lane, lease: timedelta, last_seq: int) -> None:
    """Renew the lease and write the lane's watermarks, in the transaction that has passed the fence."""
    await sql.execute(_RENEW, lane.id, lease, lane.acked_seq, last_seq)


async def release(sql: Connection, lane: Lane) -> None:
    """Release the lane and store its published watermark; does nothing if it has a new owner."""
    await sql.execute(_RELEASE, lane.id, lane.epoch, lane.acked_seq)


def _lane(row: asyncpg.Record | None) -> Lane | None:
    if row is None:
        return None
    number, topic, partition, epoch, next_offset, last_seq, published_seq = row
    return Lane(number, topic, partition, epoch, next_offset, last_seq, published_seq)
