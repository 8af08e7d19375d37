"""Customers' accounts: opening, closing, deposits and withdrawals."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID, uuid5

import asyncpg

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.ledger.entries import Booking, lock_ledger_accounts, open_ledger_accounts, post
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.trade.postings import AccountKey, AccountKind, deposit
from tradesaga.schemas.identity import NAMESPACE

VENUE = "paper"
_LIST = """
SELECT a.*, coalesce(jsonb_object_agg(l.asset || ' ' || l.kind, l.balance::text)
    FILTER (WHERE l.asset IS NOT NULL), '{}')::text AS balances
FROM account a LEFT JOIN ledger_account l ON l.owner = a.id
WHERE $1::text IS NULL OR a.id = $1 GROUP BY a.id ORDER BY a.id
"""
_CREATE = """
INSERT INTO account (id, venue, max_order_notional, max_exposure, max_open_orders) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (id) DO NOTHING
"""
_SET_LIMITS = """
UPDATE account SET max_order_notional = $2, max_exposure = $3, max_open_orders = $4 WHERE id = $1
"""
_PAYMENT = "SELECT asset, amount FROM ledger_entry WHERE saga_id = $1 AND step = 'deposit' AND kind = 'available'"


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account to open. Its limits apply per quote asset, in that asset."""

    id: str
    venue: str = VENUE
    max_order_notional: Decimal = Decimal(100_000)
    max_exposure: Decimal = Decimal(1_000_000)
    max_open_orders: int = 100


async def create_account(sql: Connection, account: NewAccount) -> bool:
    """Open an account; if it exists, set its limits and return False."""
    limits = account.max_order_notional, account.max_exposure, account.max_open_orders
    if (await sql.execute(_CREATE, account.id, account.venue, *limits)).endswith(" 1"):
        return True
    await sql.execute(_SET_LIMITS, account.id, *limits)
    return False


async def set_status(sql: Connection, account: str, status: str) -> None:
    """Open or close an account; a closed one starts no trades. Raises CommandError (exit 3)."""
    changed = await sql.execute("UPDATE account SET status = $2 WHERE id = $1", account, status)
    if not changed.endswith(" 1"):
        raise _unknown(account)


async def book_payment(sql: Connection, account: str, asset: str, amount: Decimal, reference: str) -> bool:
    """Book a deposit, or a withdrawal if the amount is negative; return False if it was booked before.

    Raises CommandError: exit 3 for an unknown account, 4 for a withdrawal of more than is available, and for a
    reference under which another payment was booked.
    """
    if not await sql.fetchval("SELECT EXISTS (SELECT FROM account WHERE id = $1)", account):
        raise _unknown(account)
    booking = Booking(payment_id(account, reference), "deposit", deposit(account, asset, amount))
    async with sql.transaction():
        await open_ledger_accounts(sql, booking.postings)
        balances = await lock_ledger_accounts(sql, booking.postings)
        earlier = await sql.fetchrow(_PAYMENT, booking.saga_id)
        if earlier is not None:
            if tuple(earlier) == (asset, amount):
                return False
            what = f"reference {reference!r} belongs to a payment of {earlier[1]:f} {earlier[0]}"
            raise CommandError("payment-differs", what, "ledger", "use another reference", ExitCode.REFUSED)
        if (free := balances[AccountKey(account, asset, AccountKind.AVAILABLE)]) + amount < 0:
            what = f"account {account} has {free:f} {asset} available, less than {-amount:f}"
            raise CommandError("insufficient-funds", what, "ledger", "withdraw less", ExitCode.REFUSED)
        await post(sql, [booking])
    return True


def payment_id(account: str, reference: str) -> UUID:
    """Return the id under which a payment is booked; the same reference has the same id."""
    return uuid5(NAMESPACE, f"payment {account} {reference}")


async def list_accounts(sql: Connection, account: str | None = None) -> Sequence[asyncpg.Record]:
    """Return all accounts or one, with balances. Raises CommandError (exit 3) if the one is unknown."""
    rows = await sql.fetch(_LIST, account)
    if account is not None and not rows:
        raise _unknown(account)
    return rows


def _unknown(account: str) -> CommandError:
    return CommandError(
        "account-unknown", f"there is no account {account}", "ledger", "see `tradesaga account list`",
        ExitCode.NOT_FOUND,
    )  # fmt: skip
