"""The book while it is made anew: balances may pass below zero until all facts are in; what is missing is named."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import uuid5

from tradesaga.infra.ledger.accounts import NewAccount
from tradesaga.infra.ledger.entries import Booking, book
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.trade.postings import deposit
from tradesaga.schemas.identity import NAMESPACE

STEP: Final = "recovered"
"""The step under which a shortfall is booked."""

_FLOOR: Final = """
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = 'ledger_account'::regclass AND contype = 'c' AND pg_get_constraintdef(oid) LIKE '%balance%'
"""
_BELOW: Final = """
SELECT owner, asset, -balance FROM ledger_account WHERE kind = 'available' AND balance < 0 ORDER BY owner, asset
"""
_ADOPT: Final = """
INSERT INTO account (id, venue, status, max_order_notional, max_exposure, max_open_orders)
SELECT DISTINCT id, $2, 'closed', 0, 0, 0 FROM unnest($1::text[]) AS t (id) ON CONFLICT (id) DO NOTHING
"""
_EMPTY_ACCOUNTS: Final = """
SELECT id FROM account WHERE status = 'closed' AND max_order_notional = 0 AND max_exposure = 0 ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """An account that has spent more than the book knows of: a payment in that no fact tells of."""

    account: str
    asset: str
    amount: Decimal


async def adopt_accounts(sql: Connection, accounts: Iterable[str]) -> None:
    """Create missing accounts, closed and with limits of zero until an operator opens them."""
    await sql.execute(_ADOPT, sorted(set(accounts)), NewAccount("").venue)


async def unknown_accounts(sql: Connection) -> list[str]:
    """Return the names of the accounts that were created from facts alone."""
    return [row[0] for row in await sql.fetch(_EMPTY_ACCOUNTS)]


async def lift_floor(sql: Connection) -> list[tuple[str, str]]:
    """Allow negative balances within this transaction; return what `lay_floor` needs to end that."""
    found = [(row[0], row[1]) for row in await sql.fetch(_FLOOR)]
    for name, _ in found:
        await sql.execute(f'ALTER TABLE ledger_account DROP CONSTRAINT "{name}"')
    return found


async def lay_floor(sql: Connection, floor: list[tuple[str, str]], incarnation: int) -> list[Shortfall]:
    """Book what is missing as paid in from outside, give what that was, and forbid balances below zero again."""
    missing = [Shortfall(*row) for row in await sql.fetch(_BELOW)]
    for each in missing:
        number = uuid5(NAMESPACE, f"recovered {incarnation} {each.account} {each.asset}")
        await book(sql, [Booking(number, STEP, deposit(each.account, each.asset, each.amount))])
    for name, definition in floor:
        await sql.execute(f'ALTER TABLE ledger_account ADD CONSTRAINT "{name}" {definition}')
    return missing
