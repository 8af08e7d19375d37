"""Posting to the ledger: accounts are locked in a fixed order, entries are written in one statement.

Balances change only by entries: a trigger applies them, and rejects entries that do not sum to zero per asset.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.trade.postings import AccountKey, AccountKind, Postings

_OPEN = """
INSERT INTO ledger_account (owner, asset, kind)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING
"""
_LOCK = """
SELECT a.owner, a.asset, a.kind, a.balance
FROM ledger_account a JOIN unnest($1::text[], $2::text[], $3::text[]) AS k (owner, asset, kind)
    ON (a.owner, a.asset, a.kind) = (k.owner, k.asset, k.kind)
ORDER BY a.owner, a.asset, a.kind FOR UPDATE OF a
"""
_POST = """
INSERT INTO ledger_entry (saga_id, step, direction, owner, asset, kind, amount)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::numeric[])
"""


@dataclass(frozen=True, slots=True)
class Booking:
    """The postings of one effect of a saga; the ledger accepts each (saga, step, direction, ledger account) once."""

    saga_id: UUID
    step: str
    postings: Postings
    direction: Literal["forward", "back"] = "forward"


async def open_ledger_accounts(sql: Connection, places: Iterable[AccountKey]) -> None:
    """Open missing ledger accounts with a balance of zero; each available one also gets its held one."""
    wanted = set(places)
    wanted |= {place._replace(kind=AccountKind.HELD) for place in wanted if place.kind is AccountKind.AVAILABLE}
    await sql.execute(_OPEN, *_columns(wanted))


async def lock_ledger_accounts(sql: Connection, places: Iterable[AccountKey]) -> dict[AccountKey, Decimal]:
    """Lock those ledger accounts that exist until the transaction ends; return their balances."""
    rows = await sql.fetch(_LOCK, *_columns(places))
    return {AccountKey(row[0], row[1], AccountKind(row[2])): row[3] for row in rows}


async def post(sql: Connection, bookings: Iterable[Booking]) -> None:
    """Write the entries of these bookings; the caller has locked the accounts."""
    rows: list[tuple[Any, ...]] = [
        (booking.saga_id, booking.step, booking.direction, *place, amount)
        for booking in bookings
        for place, amount in booking.postings.items()
    ]
    if rows:
        await sql.execute(_POST, *zip(*rows, strict=True))


async def book(sql: Connection, bookings: Iterable[Booking]) -> Mapping[AccountKey, Decimal]:
    """Open missing ledger accounts, lock them and post; return the balances before posting."""
    all_bookings = list(bookings)
    places = {place for booking in all_bookings for place in booking.postings}
    await open_ledger_accounts(sql, places)
    balances = await lock_ledger_accounts(sql, places)
    await post(sql, all_bookings)
    return balances


def _columns(places: Iterable[AccountKey]) -> list[list[str]]:
    ordered = sorted(set(places))
    return [[place[column] for place in ordered] for column in range(3)]
