"""The partitions of the audit log in PostgreSQL: a table per month, and a default for all other times."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from tradesaga.infra.postgres.database import Connection

DEFAULT: Final = "saga_event_default"
_BOUNDS: Final = re.compile(r"FOR VALUES FROM \('([^']+)'\) TO \('([^']+)'\)")
_PARTITIONS: Final = """
SELECT c.relname AS name, c.oid::regclass::text AS quoted, pg_get_expr(c.relpartbound, c.oid) AS bounds
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'saga_event'::regclass ORDER BY c.relname
"""
# Two look-ups by key give the range of offsets. Transactions leave offsets without a record, so this is an upper bound
# of the records; verification counts them exactly before anything is retired.
_EXTENT: Final = """
SELECT k.topic, k.partition, f."offset", l."offset", f.recorded_at, l.recorded_at
FROM (SELECT topic, partition FROM audit_edge UNION SELECT topic, partition FROM lane) k
CROSS JOIN LATERAL (
    SELECT p."offset", p.recorded_at FROM {table} p WHERE p.topic = k.topic AND p.partition = k.partition
    ORDER BY p.topic, p.partition, p."offset" LIMIT 1
) f
CROSS JOIN LATERAL (
    SELECT p."offset", p.recorded_at FROM {table} p WHERE p.topic = k.topic AND p.partition = k.partition
    ORDER BY p.topic DESC, p.partition DESC, p."offset" DESC LIMIT 1
) l
ORDER BY k.topic, k.partition
"""
_BYTES: Final = "SELECT sum(pg_total_relation_size(name::regclass))::bigint FROM unnest($1::text[]) AS t (name)"


@dataclass(frozen=True, slots=True)
class Part:
    """A partition: its name, quoted for SQL too, and its range of recorded times, None for the default."""

    name: str
    quoted: str
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Extent:
    """The records of one log in a segment: offsets and times of the first and the last."""

    topic: str
    partition: int
    first: int
    last: int
    since: datetime
    until: datetime

    @property
    def records(self) -> int:
        """The maximum number of records: one per offset."""
        return self.last - self.first + 1

    @property
    def saga(self) -> str:
        """The name of the topic's saga."""
        return self.topic.removesuffix(".events")


@dataclass(frozen=True, slots=True)
class Segment:
    """One or more partitions that are retired together."""

    parts: Sequence[Part]

    @property
    def rows(self) -> str:
        """The rows as an expression for FROM."""
        return "(" + " UNION ALL ".join(f"SELECT * FROM {part.quoted}" for part in self.parts) + ")"

    def __str__(self) -> str:
        """Return the partitions' names."""
        return ", ".join(part.name for part in self.parts)


async def list_parts(sql: Connection) -> list[Part]:
    """Return all partitions by time, the default last."""
    parts: list[Part] = []
    for row in await sql.fetch(_PARTITIONS):
        found = _BOUNDS.fullmatch(row["bounds"])
        start, end = (datetime.fromisoformat(found[1]), datetime.fromisoformat(found[2])) if found else (None, None)
        parts.append(Part(row["name"], row["quoted"], start, end))
    return sorted(parts, key=lambda part: (part.start is None, part.start and part.start.timestamp()))


async def measure(sql: Connection, part: Part) -> list[Extent]:
    """Return the extent of each log in a partition."""
    return [Extent(*row) for row in await sql.fetch(_EXTENT.format(table=part.quoted))]


def join(extents: Iterable[Extent]) -> list[Extent]:
    """Merge the extents of each log."""
    joined: dict[tuple[str, int], Extent] = {}
    for each in sorted(extents, key=lambda each: each.first):
        place = (each.topic, each.partition)
        known = joined.get(place, each)
        last, until = max((known.last, known.until), (each.last, each.until))
        joined[place] = replace(known, last=last, until=until)
    return [joined[place] for place in sorted(joined)]


async def count_bytes(sql: Connection, segment: Segment) -> int:
    """Return the bytes of a segment on disk, indexes included."""
    return await sql.fetchval(_BYTES, [part.quoted for part in segment.parts])
