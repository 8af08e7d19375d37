"""Rebuilding the ledger database: balances may be negative until all facts are read; then shortfalls are booked."""

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import uuid5

import orjson

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.ledger.accounts import NewAccount
from tradesaga.infra.ledger.entries import Booking, book
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.settings import SAGA_LOG
from tradesaga.sagas.trade.postings import deposit
from tradesaga.schemas.identity import NAMESPACE

PAYMENT_STEPS: Final = ("deposit", "venue_stock", "recovered")
TABLES: Final[Mapping[str, tuple[str, str]]] = {
    "account": ("cash", ""),
    "instrument": ("risk", ""),
    "ledger_entry": ("cash", f"WHERE step IN ({', '.join(map(repr, PAYMENT_STEPS))})"),
    "signal_subscription": (SAGA_LOG, ""),
    "hold": ("risk", ""),
    "venue_cursor": ("execution", ""),
}
"""By table: the service whose database has it, and the condition for the rows that are saved."""

_COLUMNS: Final = "saga_id, step, direction, owner, asset, kind, amount, created_at"
_PLACES: Final = """
INSERT INTO ledger_account (owner, asset, kind)
SELECT l.line -> 'row' ->> 'owner', l.line -> 'row' ->> 'asset', k.kind FROM unnest($1::jsonb[]) AS l (line),
    unnest(ARRAY[l.line -> 'row' ->> 'kind', replace(l.line -> 'row' ->> 'kind', 'available', 'held')]) AS k (kind)
ON CONFLICT DO NOTHING
"""


async def read_rows(sql: Connection, table: str) -> AsyncGenerator[str]:
    """Yield the rows of a table that are saved, each as a line of JSON."""
    where = TABLES[table][1]
    query = f"SELECT jsonb_build_object('table', '{table}', 'row', to_jsonb(t))::text FROM {table} t {where} ORDER BY 1"
    async with sql.transaction(isolation="repeatable_read", readonly=True):
        async for row in sql.cursor(query):
            yield row[0]


def sort_lines(lines: Iterable[bytes], source: str) -> dict[str, list[str]]:
    """Return a saved file's rows by table, as JSON texts. Raises CommandError (exit 2) that names the line."""
    found: dict[str, list[str]] = {table: [] for table in TABLES}
    for number, line in enumerate(lines, start=1):
        try:
            table = orjson.loads(line)["table"]
            found[table].append(line.decode())
        except (ValueError, KeyError, TypeError) as error:
            what = f"line {number} is not a row written by `tradesaga recover save`"
            do = "give the file that `tradesaga recover save` wrote"
            raise CommandError("book-unreadable", what, source, do, ExitCode.USAGE) from error
    return found


async def write_rows(sql: Connection, table: str, lines: list[str]) -> int:
    """Write saved rows, except those that exist; return the number written."""
    if not lines:
        return 0
    if table == "ledger_entry":
        await sql.execute(_PLACES, lines)
    columns = _COLUMNS if table == "ledger_entry" else "r.*"
    target = f"{table} ({_COLUMNS})" if table == "ledger_entry" else table
    tag = await sql.execute(
        f"INSERT INTO {target} SELECT {columns} FROM unnest($1::jsonb[]) AS l (line),"
        f" LATERAL jsonb_populate_record(NULL::{table}, l.line -> 'row') AS r ON CONFLICT DO NOTHING",
        lines,
    )
    return int(tag.rsplit(" ", 1)[1])


def format_counts(counts: Counter[str]) -> str:
    """Return the number of rows by table, as text."""
    return ", ".join(f"{number} {table}" for table, number in sorted(counts.items()) if number) or "nothing"


STEP: Final = "recovered"
"""The step under which a shortfall is booked."""

_CONSTRAINTS: Final = """
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = 'ledger_account'::regclass AND contype = 'c' AND pg_get_constraintdef(oid) LIKE '%balance%'
"""

_SHORTFALLS: Final = """
SELECT owner, asset, -balance FROM ledger_account WHERE kind = 'available' AND balance < 0 ORDER BY owner, asset
"""

_CREATE_MISSING: Final = """
INSERT INTO account (id, venue, status, max_order_notional, max_exposure, max_open_orders)
SELECT DISTINCT id, $2, 'closed', 0, 0, 0 FROM unnest($1::text[]) AS t (id) ON CONFLICT (id) DO NOTHING
"""

_EMPTY_ACCOUNTS: Final = """
SELECT id FROM account WHERE status = 'closed' AND max_order_notional = 0 AND max_exposure = 0 ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """An account that has spent more than the ledger has: a deposit of which there is no fact."""

    account: str
    asset: str
    amount: Decimal


async def create_missing_accounts(sql: Connection, accounts: Iterable[str]) -> None:
    """Create missing accounts, closed and with limits of zero until an operator opens them."""
    await sql.execute(_CREATE_MISSING, sorted(set(accounts)), NewAccount("").venue)


async def unknown_accounts(sql: Connection) -> list[str]:
    """Return the accounts that were created from facts alone."""
    return [row[0] for row in await sql.fetch(_EMPTY_ACCOUNTS)]


async def allow_negative_balances(sql: Connection) -> list[tuple[str, str]]:
    """Drop the constraints on balances within this transaction; return them for `forbid_negative_balances`."""
    found = [(row[0], row[1]) for row in await sql.fetch(_CONSTRAINTS)]
    for name, _ in found:
        await sql.execute(f'ALTER TABLE ledger_account DROP CONSTRAINT "{name}"')
    return found


async def forbid_negative_balances(
    sql: Connection, constraints: list[tuple[str, str]], incarnation: int
) -> list[Shortfall]:
    """Book shortfalls as deposits, return them, and restore the constraints on balances."""
    missing = [Shortfall(*row) for row in await sql.fetch(_SHORTFALLS)]
    for each in missing:
        number = uuid5(NAMESPACE, f"recovered {incarnation} {each.account} {each.asset}")
        await book(sql, [Booking(number, STEP, deposit(each.account, each.asset, each.amount))])
    for name, definition in constraints:
        await sql.execute(f'ALTER TABLE ledger_account ADD CONSTRAINT "{name}" {definition}')
    return missing
