"""Outbox rows that the broker rejects for good: parked together with the watermark, so that their lane continues.

Such a row is in `parked` under its group's name with ` outbox` appended, with its lane's id as a negative partition (no
topic has one) and its number as the offset. `tradesaga resend` publishes it once the broker accepts it.
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
    """Park the lane's first unpublished row and skip it, in one transaction. Raises `InDoubtError` when fenced."""
    lane.acked_seq = row.seq
    what = f"the broker rejects outbox row {row.lane}/{row.seq}: {type(why).__name__}"
    reason = f"{what}; once it accepts it, run `tradesaga resend {row.lane} {row.seq}`"
    async with sql.transaction():
        if not await lane_rows.advance(sql, [lane], {}):
            raise InDoubtError("another owner has acquired the lane")
        group = await sql.fetchval(_SET_ASIDE, row.lane, row.seq, _saga_id(row.record.key), reason)
    metrics.PARKED.labels(group).inc()
    structlog.get_logger("publisher").error(
        "outbox row parked", topic=row.record.topic, saga_id=row.record.key, lane=row.lane, seq=row.seq, why=reason
    )


@dataclass(frozen=True, slots=True)
class Refused:
    """A parked outbox row as it is to be published; `released` once it was resent."""

    record: Outgoing
    released: bool


async def find_refused(sql: Connection, lane: int, seq: int) -> Refused | None:
    """Return a parked outbox row, None if there is none."""
    row = await sql.fetchrow(_FIND, lane, seq)
    if row is None:
        return None
    record = Outgoing.of_stored(row["topic"], load_headers(row["headers"]), row["value"])
    return Refused(record, row["released"] is not None)


async def mark_resent(sql: Connection, lane: int, seq: int) -> None:
    """Record that the row was published."""
    await sql.execute(_RESENT, lane, seq)


def _saga_id(key: str) -> UUID | None:
    try:
        return UUID(key)
    except ValueError:
        return None
