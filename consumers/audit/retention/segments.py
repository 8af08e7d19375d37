"""The parts of which the audit log is made in PostgreSQL: a table a month, and one for what has no month's."""

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
# Two look-ups in the key count the offsets, of which transactions on the topic leave some without a record. The reading
# that comes before anything is retired counts the records one by one.
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
    """One partition: its name, as SQL writes it too, and the span of recorded time that is its own, if it has one."""

    name: str
    quoted: str
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Extent:
    """What a segment holds of one log; offsets and times are those of its first and last record."""

    topic: str
    partition: int
    first: int
    last: int
    since: datetime
    until: datetime

    @property
    def records(self) -> int:
        """Return how many records there are at most: one an offset."""
        return self.last - self.first + 1

    @property
    def saga(self) -> str:
        """Name the saga whose topic this is."""
        return self.topic.removesuffix(".events")


@dataclass(frozen=True, slots=True)
class Segment:
    """One or more partitions that go together."""

    parts: Sequence[Part]

    @property
    def rows(self) -> str:
        """Return what SQL reads the rows from."""
        return "(" + " UNION ALL ".join(f"SELECT * FROM {part.quoted}" for part in self.parts) + ")"

    def __str__(self) -> str:
        """Name the partitions."""
        return ", ".join(part.name for part in self.parts)


async def list_parts(sql: Connection) -> list[Part]:
    """Return all partitions of the audit log: by time, and last the one for what has no month's."""
    parts: list[Part] = []
    for row in await sql.fetch(_PARTITIONS):
        found = _BOUNDS.fullmatch(row["bounds"])
        start, end = (datetime.fromisoformat(found[1]), datetime.fromisoformat(found[2])) if found else (None, None)
        parts.append(Part(row["name"], row["quoted"], start, end))
    return sorted(parts, key=lambda part: (part.start is None, part.start and part.start.timestamp()))


async def measure(sql: Connection, part: Part) -> list[Extent]:
    """Return what a partition holds of each log."""
    return [Extent(*row) for row in await sql.fetch(_EXTENT.format(table=part.quoted))]


def join(extents: Iterable[Extent]) -> list[Extent]:
    """Return what partitions hold together of each log."""
    joined: dict[tuple[str, int], Extent] = {}
    for each in sorted(extents, key=lambda each: each.first):
        place = (each.topic, each.partition)
        known = joined.get(place, each)
        last, until = max((known.last, known.until), (each.last, each.until))
        joined[place] = replace(known, last=last, until=until)
    return [joined[place] for place in sorted(joined)]


async def count_bytes(sql: Connection, segment: Segment) -> int:
    """Return what a segment takes of the disk, indexes included."""
    return await sql.fetchval(_BYTES, [part.quoted for part in segment.parts])
