"""Park records whose saga's version is not registered here, and return them once it is.

They are in the table `parked` under the participant's group. Nothing is published for them, so their sagas wait, as
they do while a service is down. A service that has the version processes them when it acquires the lanes.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

from tradesaga.consumers.saga_log.store import PARK, RELEASE, milliseconds
from tradesaga.infra.clock import read_id
from tradesaga.infra.kafka.codec import Record, dump_headers, load_headers
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.processor import Received
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.registry.sagas import UNKNOWN_VERSION
from tradesaga.schemas.envelope import SAGA_ID

PAGE: Final = 200
"""Parked records that one batch processes."""
KEEP: Final = f"{PARK.rstrip()} ON CONFLICT DO NOTHING"
FIND: Final = """
SELECT topic, partition, "offset", saga_id, recorded_at, headers, value FROM parked
WHERE "group" = $1 AND released IS NULL AND starts_with(reason, $2)
    AND substring(reason FROM 'version ([0-9]+)') = ANY($3::text[])
    AND (topic, partition) IN (SELECT * FROM unnest($4::text[], $5::int[]))
ORDER BY recorded_at, topic, partition, "offset" LIMIT $6
"""


async def find(sql: Connection, group: str, versions: Collection[int], lanes: Collection[Lane]) -> list[Received]:
    """Return the oldest parked records of these lanes whose version is registered now, in order."""
    topics, partitions = [lane.topic for lane in lanes], [lane.partition for lane in lanes]
    known = [str(version) for version in versions]
    rows = await sql.fetch(FIND, group, UNKNOWN_VERSION, known, topics, partitions, PAGE)
    places = {(lane.topic, lane.partition): lane.id for lane in lanes}
    found: list[Received] = []
    for row in rows:
        topic, partition, offset, saga_id, at, headers, value = row
        key = str(saga_id).encode()
        record = Record(topic, partition, offset, milliseconds(at), key, value or b"", load_headers(headers))
        found.append(Received(places[topic, partition], record))
    return found


async def keep(sql: Connection, group: str, records: Sequence[tuple[Record, str]]) -> None:
    """Park records, each with the reason; those that are parked already stay as they are."""
    rows = [
        (record.topic, record.partition, record.offset, read_id(record.header(SAGA_ID).decode()), reason,
         record.recorded_at, dump_headers(record.headers), record.value)
        for record, reason in records
    ]  # fmt: skip
    if rows:
        await sql.execute(KEEP, group, *zip(*rows, strict=True))


async def release(sql: Connection, group: str, records: Sequence[Record], at: datetime) -> None:
    """Mark parked records as released."""
    rows = [(record.topic, record.partition, record.offset, "retry", at) for record in records]
    if rows:
        await sql.execute(RELEASE, group, *zip(*rows, strict=True))
