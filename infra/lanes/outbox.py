"""Outbox rows: insert-only, numbered without gaps by their lane, published by the lane's owner alone."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg

from infra.codec import Outgoing, load_headers
from infra.database import Connection

INSERT = """
WITH numbered AS (
    UPDATE lane SET last_seq = n.last_seq FROM unnest($1::int[], $2::bigint[]) AS n (id, last_seq) WHERE lane.id = n.id
)
INSERT INTO outbox (lane, seq, id, aggregatetype, aggregateid, type, headers, payload)
SELECT * FROM unnest(
    $3::int[], $4::bigint[], $5::uuid[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bytea[])
"""

UNPUBLISHED = """
SELECT lane, seq, id, aggregatetype, aggregateid, type, headers, payload
FROM outbox WHERE lane = $1 AND seq > $2 ORDER BY seq LIMIT $3
"""

PAGE = 250
"""Rows read at once of what is to be published again; a row has a megabyte at most."""


class OutboxRow(NamedTuple):
    """One record to publish, with its place in its lane."""

    lane: int
    seq: int
    record: Outgoing


async def insert(connection: Connection, rows: Sequence[OutboxRow]) -> None:
    """Write rows, and move their lanes' numbers with them, in one statement; the fence must have been passed before."""
    last = {row.lane: row.seq for row in rows}
    await connection.execute(
        INSERT,
        list(last),
        list(last.values()),
        [row.lane for row in rows],
        [row.seq for row in rows],
        [row.record.id for row in rows],
        [row.record.topic for row in rows],
        [row.record.key for row in rows],
        [row.record.type for row in rows],
        [row.record.header_text for row in rows],
        [row.record.value for row in rows],
    )


async def load_unpublished(connection: Connection, lane: int, after: int, limit: int = PAGE) -> list[OutboxRow]:
    """Read the rows of a lane that nobody is known to have published, in order."""
    found = await connection.fetch(UNPUBLISHED, lane, after, limit)
    return [OutboxRow(row["lane"], row["seq"], _record(row)) for row in found]


def _record(row: asyncpg.Record) -> Outgoing:
    headers = load_headers(row["headers"])
    ce_id: UUID = row["id"]
    return Outgoing(row["aggregatetype"], row["aggregateid"], ce_id, row["type"], headers, row["payload"])
