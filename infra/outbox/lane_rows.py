"""SQL on lane rows: acquisition, fencing, and the watermarks of what was consumed, written and published."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

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

NOTHING_SEEN: Final[Mapping[int, RecordChecksum]] = MappingProxyType({})
OFFSETS = 'SELECT topic, partition, next_offset FROM lane WHERE "group" = $1'

# The fence. Rows are locked in the order of their ids, so that two batches cannot deadlock.
ADVANCE = """
WITH mine AS (
    SELECT l.id FROM lane l JOIN unnest($1::int[], $2::bigint[], $3::bigint[]) AS m (id, epoch, last_seq) USING (id)
    WHERE l.epoch = m.epoch AND l.last_seq = m.last_seq ORDER BY l.id FOR UPDATE OF l
)
UPDATE lane l SET next_offset = greatest(l.next_offset, m.next_offset),
    published_seq = greatest(l.published_seq, m.published_seq),
    seen_offset = coalesce(m.seen_offset, l.seen_offset), seen_crc = coalesce(m.seen_crc, l.seen_crc)
FROM unnest($1::int[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
    AS m (id, next_offset, published_seq, seen_offset, seen_crc)
WHERE l.id = m.id AND l.id IN (SELECT id FROM mine)
RETURNING l.id
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


async def advance(
    connection: Connection,
    lanes: Iterable[Lane],
    offsets: Mapping[int, int],
    seen: Mapping[int, RecordChecksum] = NOTHING_SEEN,
) -> set[int]:
    """Pass the fence: lock the lanes still owned, move their offsets and watermarks, and return their ids.

    A lane that is not returned has a new owner: nothing of it may be written or published. `offsets` holds the new
    `next_offset` by lane id, `seen` the checksum of the last record before it.
    """
    moved = list(lanes)
    last = [seen.get(lane.id, lane.seen) for lane in moved]
    rows = await connection.fetch(
        ADVANCE,
        [lane.id for lane in moved],
        [lane.epoch for lane in moved],
        [lane.last_seq for lane in moved],
        [offsets.get(lane.id, lane.next_offset) for lane in moved],
        [lane.acked_seq for lane in moved],
        [each.offset if each else None for each in last],
        [each.crc if each else None for each in last],
    )
    return {row["id"] for row in rows}
