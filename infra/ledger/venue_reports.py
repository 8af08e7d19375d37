"""Stored reports of the venue about our orders, from the feed or read by execution; execution answers from them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final
from uuid import UUID

from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.trade.fills import ENDS, identify
from tradesaga.schemas.messages.trade import VenueReport

_INSERT: Final = """
INSERT INTO venue_report (saga_id, ident, final, body)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::bool[], $4::bytea[]) ON CONFLICT (saga_id, ident)
"""
_REPLACE: Final = f"{_INSERT} DO UPDATE SET body = excluded.body WHERE venue_report.body <> excluded.body"
_KEEP: Final = f"{_INSERT} DO NOTHING"
_LOAD: Final = """
SELECT r.saga_id, r.body FROM venue_report r
WHERE r.saga_id IN (SELECT e.saga_id FROM venue_report e WHERE e.saga_id = ANY ($1::uuid[]) AND e.final)
"""
_FIND: Final = """
SELECT r.saga_id, r.ident, r.body FROM unnest($1::uuid[], $2::text[]) AS k (saga_id, ident)
JOIN venue_report r ON (r.saga_id, r.ident) = (k.saga_id, k.ident)
"""
# Locked in the order in which the feed, at the same time, stores them.
_COUNT: Final = """
UPDATE venue_report SET counted = true FROM (
    SELECT r.saga_id, r.ident FROM venue_report r
    JOIN unnest($1::uuid[], $2::text[]) AS k (saga_id, ident) ON (r.saga_id, r.ident) = (k.saga_id, k.ident)
    ORDER BY r.saga_id, r.ident FOR UPDATE OF r
) AS found WHERE (venue_report.saga_id, venue_report.ident) = (found.saga_id, found.ident)
"""
_FIND_COUNTED: Final = f"{_FIND} WHERE r.counted"


async def store_reported(sql: Connection, reports: Sequence[tuple[UUID, VenueReport]]) -> None:
    """Store reports that the same transaction publishes; a repeated report replaces the stored one."""
    await _store(sql, _REPLACE, reports)


async def store_read(sql: Connection, reports: Sequence[tuple[UUID, VenueReport]]) -> None:
    """Store reports read from the venue; stored ones are kept."""
    await _store(sql, _KEEP, reports)


async def load_ended(sql: Connection, sagas: Collection[UUID]) -> Mapping[UUID, Sequence[VenueReport]]:
    """Read all reports of those orders that have ended; nothing follows yet from reports of the others."""
    found: dict[UUID, list[VenueReport]] = {}
    for row in await sql.fetch(_LOAD, list(sagas)):
        found.setdefault(row[0], []).append(VenueReport.from_wire(row[1]))
    return found


async def find_bodies(sql: Connection, asked: Collection[tuple[UUID, str]]) -> Mapping[tuple[UUID, str], bytes]:
    """Return the stored bytes of these reports by saga and the report's id within its order."""
    if not asked:
        return {}
    rows = await sql.fetch(_FIND, [saga_id for saga_id, _ in asked], [ident for _, ident in asked])
    return {(row[0], row[1]): row[2] for row in rows}


async def mark_counted(sql: Connection, reports: Collection[tuple[UUID, str]]) -> None:
    """Mark reports as counted by an answer, or as published contradictions of it."""
    await sql.execute(_COUNT, [saga_id for saga_id, _ in reports], [ident for _, ident in reports])


async def find_counted(sql: Connection, reports: Collection[tuple[UUID, str]]) -> set[tuple[UUID, str]]:
    """Return those of these reports that are marked."""
    rows = await sql.fetch(_FIND_COUNTED, [saga_id for saga_id, _ in reports], [ident for _, ident in reports])
    return {(row[0], row[1]) for row in rows}


async def _store(sql: Connection, statement: str, reports: Sequence[tuple[UUID, VenueReport]]) -> None:
    rows = {
        (saga_id, ident := identify(report)): (saga_id, ident, report.kind in ENDS, report.to_wire())
        for saga_id, report in reports
    }
    if rows:
        ordered = [rows[key] for key in sorted(rows)]
        await sql.execute(statement, *zip(*ordered, strict=True))
