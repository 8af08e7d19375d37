"""What no topic carries, kept in a file: accounts, payments, instruments, subscriptions, pauses, the venue's cursor.

One JSON object a line, `{"table": ..., "row": {...}}`, written and read by PostgreSQL itself, so that no amount passes
through a float.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Final

import orjson

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.settings import SAGA_LOG

PAYMENT_STEPS: Final = ("deposit", "venue_stock", "recovered")
TABLES: Final[Mapping[str, tuple[str, str]]] = {
    "account": ("cash", ""),
    "instrument": ("risk", ""),
    "ledger_entry": ("cash", f"WHERE step IN ({', '.join(map(repr, PAYMENT_STEPS))})"),
    "signal_subscription": (SAGA_LOG, ""),
    "hold": ("risk", ""),
    "venue_cursor": ("execution", ""),
}
"""By table the service in whose database it lies, and which of its rows are kept."""
_COLUMNS: Final = "saga_id, step, direction, owner, asset, kind, amount, created_at"
_PLACES: Final = """
INSERT INTO ledger_account (owner, asset, kind)
SELECT l.line -> 'row' ->> 'owner', l.line -> 'row' ->> 'asset', k.kind FROM unnest($1::jsonb[]) AS l (line),
    unnest(ARRAY[l.line -> 'row' ->> 'kind', replace(l.line -> 'row' ->> 'kind', 'available', 'held')]) AS k (kind)
ON CONFLICT DO NOTHING
"""


async def read_rows(sql: Connection, table: str) -> AsyncGenerator[str]:
    """Return the rows of one table that are worth keeping, each as a line."""
    where = TABLES[table][1]
    query = f"SELECT jsonb_build_object('table', '{table}', 'row', to_jsonb(t))::text FROM {table} t {where} ORDER BY 1"
    async with sql.transaction(isolation="repeatable_read", readonly=True):
        async for row in sql.cursor(query):
            yield row[0]


def sort_lines(lines: Iterable[bytes], source: str) -> dict[str, list[str]]:
    """Return the rows of a kept file by table, as JSON texts. Raises `CommandError` (exit 2) naming the line."""
    found: dict[str, list[str]] = {table: [] for table in TABLES}
    for number, line in enumerate(lines, start=1):
        try:
            table = orjson.loads(line)["table"]
            found[table].append(line.decode())
        except (ValueError, KeyError, TypeError) as error:
            what = f"line {number} is no row that `tradesaga recover save` writes"
            do = "give the file that it wrote"
            raise CommandError("book-unreadable", what, source, do, ExitCode.USAGE) from error
    return found


async def write_rows(sql: Connection, table: str, lines: list[str]) -> int:
    """Write rows that were kept; those that are there already stay as they are. Gives the number written."""
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


def summed(counts: Counter[str]) -> str:
    """Return the number of rows by table, as text."""
    return ", ".join(f"{number} {table}" for table, number in sorted(counts.items()) if number) or "nothing"
