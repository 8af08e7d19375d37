"""SQL on lane rows: acquisition, fencing, and the watermarks of what was consumed, written and published."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from tradesaga.infra.kafka.codec import RecordChecksum
from tradesaga.infra.postgres.database import Connection

ACQUIRE = """
INSERT INTO lane AS l ("group", topic, partition, epoch, owner)
SELECT $1, topic, partition, 1, $4 FROM unnest($2::text[], $3::int[]) AS t (topic, partition)
ORDER BY topic, partition
ON CONFLICT ("group", topic, partition)
DO UPDATE SET epoch = l.epoch + 1, owner = excluded.owner, claimed_at = clock_timestamp()
RETURNING id, topic, partition, epoch, next_offset, last_seq, published_seq
"""

OFFSETS = 'SELECT topic, partition, next_offset FROM lane WHERE "group" = $1'

# Rows are locked in the order of their ids, so that two batches cannot deadlock.
FENCE = """
SELECT l.id FROM lane l JOIN unnest($1::int[], $2::bigint[], $3::bigint[]) AS m (id, epoch, last_seq) USING (id)
WHERE l.epoch = m.epoch AND l.last_seq = m.last_seq ORDER BY l.id FOR UPDATE OF l
"""
_WATERMARKS = """next_offset = greatest(l.next_offset, m.next_offset),
    published_seq = greatest(l.published_seq, m.published_seq),
    seen_offset = coalesce(m.seen_offset, l.seen_offset), seen_crc = coalesce(m.seen_crc, l.seen_crc)"""
ADVANCE = f"""
WITH mine AS ({FENCE})
UPDATE lane l SET {_WATERMARKS}
FROM unnest($1::int[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
    AS m (id, next_offset, published_seq, seen_offset, seen_crc)
WHERE l.id = m.id AND l.id IN (SELECT id FROM mine)
RETURNING l.id
"""
MOVE = f"""
UPDATE lane l SET {_WATERMARKS}, last_seq = m.last_seq
FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
    AS m (id, last_seq, next_offset, published_seq, seen_offset, seen_crc)
WHERE l.id = m.id
"""
OWNED = """
SELECT l.id FROM lane l JOIN unnest($1::int[], $2::bigint[]) AS m (id, epoch) USING (id) WHERE l.epoch = m.epoch
"""


@dataclass(slots=True)
class Lane:
    """One acquired lane, as its owner knows it.

    `next_offset` is the first record not yet handled, `last_seq` the number of the last outbox row written, `acked_seq`
    that of the last row acknowledged by the broker together with all before it. `stored_offset` is the next offset as
    committed to the database; `next_offset` may be ahead of it. `seen` identifies the last record read.
    """

    id: int
    topic: str
    partition: int
    epoch: int
    next_offset: int
    last_seq: int
    acked_seq: int
    stored_offset: int = 0
    seen: RecordChecksum | None = None


async def acquire(connection: Connection, group: str, partitions: Sequence[tuple[str, int]], owner: str) -> list[Lane]:
    """Acquire lanes under new epochs; their former owners are fenced once this statement commits.

    Waits, within `lock_timeout`, for an open transaction of a former owner.
    """
    topics = [topic for topic, _ in partitions]
    numbers = [number for _, number in partitions]
    rows = await connection.fetch(ACQUIRE, group, topics, numbers, owner)
    return [
        Lane(
            r["id"], r["topic"], r["partition"], r["epoch"], r["next_offset"], r["last_seq"], r["published_seq"],
            r["next_offset"],
        )
        for r in rows
    ]  # fmt: skip


async def read_offsets(
    connection: Connection, group: str, partitions: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], int]:
    """Return the next offset of each lane that exists."""
    rows = await connection.fetch(OFFSETS, group)
    known = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
    return {place: known[place] for place in partitions if place in known}


async def fence(connection: Connection, lanes: Sequence[Lane]) -> set[int]:
    """Lock the lanes that are still owned until the transaction ends, and return their ids.

    A lane that is not returned has a new owner: nothing of it may be written or published.
    """
    return _ids(await connection.fetch(FENCE, *_identities(lanes)))


async def move(
    connection: Connection,
    lanes: Sequence[Lane],
    offsets: Mapping[int, int],
    seen: Mapping[int, RecordChecksum],
    numbers: Mapping[int, int],
) -> None:
    """Move the offsets and watermarks of lanes that this transaction has locked with `fence`.

    `offsets` holds the new `next_offset` by lane id, `seen` the checksum of the last record before it, and `numbers`
    the number of the last outbox row.
    """
    ids, *watermarks = _watermarks(lanes, offsets, seen)
    last = [numbers.get(lane.id, lane.last_seq) for lane in lanes]
    await connection.execute(MOVE, ids, last, *watermarks)


async def advance(connection: Connection, lanes: Iterable[Lane]) -> set[int]:
    """Pass the fence and save the watermarks in one statement; return the ids of the lanes that are still owned."""
    moved = list(lanes)
    _, *watermarks = _watermarks(moved, {}, {})
    return _ids(await connection.fetch(ADVANCE, *_identities(moved), *watermarks))


async def find_owned(connection: Connection, lanes: Sequence[Lane]) -> set[int]:
    """Return the ids of the lanes that are still owned, without locking them."""
    return _ids(await connection.fetch(OWNED, [lane.id for lane in lanes], [lane.epoch for lane in lanes]))


def _ids(rows: Iterable[asyncpg.Record]) -> set[int]:
    return {row["id"] for row in rows}


def _identities(lanes: Sequence[Lane]) -> list[list[int]]:
    """Return ids, epochs and last outbox numbers, as the fence compares them."""
    return [[lane.id for lane in lanes], [lane.epoch for lane in lanes], [lane.last_seq for lane in lanes]]


def _watermarks(
    lanes: Sequence[Lane], offsets: Mapping[int, int], seen: Mapping[int, RecordChecksum]
) -> list[list[Any]]:
    """Return ids, next offsets, numbers of published rows, and offset and checksum of the last record seen."""
    last = [seen.get(lane.id, lane.seen) for lane in lanes]
    return [
        [lane.id for lane in lanes],
        [offsets.get(lane.id, lane.next_offset) for lane in lanes],
        [lane.acked_seq for lane in lanes],
        [each.offset if each else None for each in last],
        [each.crc if each else None for each in last],
    ]
