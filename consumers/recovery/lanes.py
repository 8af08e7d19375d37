"""Lane rows as a recovery leaves them: where each group goes on reading, under which numbers."""

from collections.abc import Mapping
from typing import Final

from tradesaga.infra.outbox.incarnation import Incarnation
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.postgres.database import Connection

_DECLARE: Final = """
INSERT INTO lane ("group", topic, partition, epoch, last_seq, published_seq)
SELECT $1, $2, number, $4, $4, $4 FROM generate_series(0, $3::int - 1) AS number
ON CONFLICT ("group", topic, partition) DO NOTHING
"""
_READ: Final = """
SELECT id, topic, partition, epoch, next_offset, last_seq, published_seq FROM lane
WHERE "group" = $1 AND topic = $2 ORDER BY partition
"""
_MOVE: Final = """
UPDATE lane SET next_offset = t.next_offset FROM unnest($3::int[], $4::bigint[]) AS t (partition, next_offset)
WHERE "group" = $1 AND topic = $2 AND lane.partition = t.partition
"""


async def declare(
    sql: Connection, group: str, topic: str, partitions: int, incarnation: Incarnation
) -> dict[int, Lane]:
    """Have the group's lanes of a topic exist, and give them by partition."""
    await sql.execute(_DECLARE, group, topic, partitions, incarnation.base)
    return {row["partition"]: Lane(*row) for row in await sql.fetch(_READ, group, topic)}


async def move(sql: Connection, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Have the group go on reading from these offsets, by partition."""
    await sql.execute(_MOVE, group, topic, list(offsets), list(offsets.values()))
