"""Rows that the broker refuses for good: set aside together with the mark, so that their lane goes on without them.

Such a row stands in `parked` under its group's name and ` outbox`, its lane's id as a negative partition (no topic has
one), its number as the offset. `tradesaga resend` publishes it once the broker takes it.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from tradesaga.infra.kafka.codec import Outgoing, load_headers
from tradesaga.infra.outbox import lane_rows
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.outbox_rows import OutboxRow
from tradesaga.infra.outbox.processor import InDoubtError
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.telemetry import metrics

_SET_ASIDE: Final = """
INSERT INTO parked ("group", topic, partition, "offset", saga_id, reason, recorded_at, headers, value)
SELECT l."group" || ' outbox', o.aggregatetype, -l.id, o.seq, $3, $4, clock_timestamp(), o.headers, o.payload
FROM outbox o JOIN lane l ON l.id = o.lane WHERE o.lane = $1 AND o.seq = $2
RETURNING "group"
"""
_FIND: Final = """
SELECT topic, headers, value, released FROM parked WHERE partition = -$1::int AND "offset" = $2
"""
_RESENT: Final = """
UPDATE parked SET released = 'retry', released_at = clock_timestamp() WHERE partition = -$1::int AND "offset" = $2
"""


async def set_aside(sql: Connection, lane: Lane, row: OutboxRow, why: BaseException) -> None:
    """Park the lane's first unpublished row and pass it by, in one transaction; raises `InDoubtError` when fenced."""
    lane.acked_seq = row.seq
    what = f"the broker refuses outbox row {row.lane}/{row.seq} for good: {type(why).__name__}"
    reason = f"{what}; once it takes it, `tradesaga resend {row.lane} {row.seq}`"
    async with sql.transaction():
        if not await lane_rows.advance(sql, [lane], {}):
            raise InDoubtError("another owner has claimed the lane")
        group = await sql.fetchval(_SET_ASIDE, row.lane, row.seq, _saga_id(row.record.key), reason)
    metrics.PARKED.labels(group).inc()
    structlog.get_logger("publisher").error(
        "row set aside", topic=row.record.topic, saga_id=row.record.key, lane=row.lane, seq=row.seq, why=reason
    )


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that was set aside, as it is to be published; `released` once somebody has."""

    record: Outgoing
    released: bool


async def find_refused(sql: Connection, lane: int, seq: int) -> Refused | None:
    """Read a row that was set aside."""
    row = await sql.fetchrow(_FIND, lane, seq)
    if row is None:
        return None
    record = Outgoing.of_stored(row["topic"], load_headers(row["headers"]), row["value"])
    return Refused(record, row["released"] is not None)


async def mark_resent(sql: Connection, lane: int, seq: int) -> None:
    """Note that the row is on its topic by now."""
    await sql.execute(_RESENT, lane, seq)


def _saga_id(key: str) -> UUID | None:
    try:
        return UUID(key)
    except ValueError:
        return None
