"""Outbox rows: insert-only, numbered without gaps within their lane, published by the lane's owner alone."""

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from tradesaga.infra.kafka.codec import Outgoing, load_headers
from tradesaga.infra.postgres.database import Connection

COLUMNS = ("lane", "seq", "id", "aggregatetype", "aggregateid", "type", "headers", "payload")

NUMBER = """
UPDATE lane SET last_seq = n.last_seq FROM unnest($1::int[], $2::bigint[]) AS n (id, last_seq) WHERE lane.id = n.id
"""
UNPUBLISHED = """
SELECT lane, seq, id, aggregatetype, aggregateid, type, headers, payload
FROM outbox WHERE lane = $1 AND seq > $2 ORDER BY seq LIMIT $3
"""

PAGE = 250
"""Unpublished rows read at once; a row has at most a megabyte."""


class OutboxRow(NamedTuple):
    """One record to publish, with its lane and its number in it."""

    lane: int
    seq: int
    record: Outgoing


async def insert(connection: Connection, rows: Sequence[OutboxRow]) -> None:
    """Insert rows and write the numbers of the last ones to their lanes; the transaction must have passed the fence."""
    last = {row.lane: row.seq for row in rows}
    await connection.execute(NUMBER, list(last), list(last.values()))
    await copy(connection, rows)


async def copy(connection: Connection, rows: Sequence[OutboxRow]) -> None:
    """Insert rows whose numbers the caller writes to their lanes in the same transaction."""
    records = [
        (lane, seq, record.id, record.topic, record.key, record.type, record.header_text, record.value)
        for lane, seq, record in rows
    ]
    await connection.copy_records_to_table("outbox", columns=COLUMNS, records=records)


async def load_unpublished(connection: Connection, lane: int, after: int, limit: int = PAGE) -> list[OutboxRow]:
    """Return the rows of a lane that are not known to be published, in order."""
    found = await connection.fetch(UNPUBLISHED, lane, after, limit)
    return [OutboxRow(row["lane"], row["seq"], _record(row)) for row in found]


def _record(row: asyncpg.Record) -> Outgoing:
    text, ce_id = row["headers"], row["id"]
    return Outgoing(
        row["aggregatetype"], row["aggregateid"], ce_id, row["type"], load_headers(text), row["payload"], text
    )
