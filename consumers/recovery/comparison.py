"""Comparison of two databases, row by row and column by column, in bounded memory."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import asyncpg

from tradesaga.infra.postgres.database import Connection, session

SHOWN: Final = 20
"""Number of differences of one table that are listed."""

SETTLED: Final = "status IN (4, 5, 6, 7, 9, 10)"
"""Step rows that have ended; the others change all the time."""
QUERIES: Final = {
    "saga": "SELECT saga_id::text AS key, name, version, state, current_step_index, completed_steps::text,"
    " compensated_steps::text, context::text, progress, seq, head, deadline, deadline_due, request_hash, created_at,"
    " updated_at FROM saga ORDER BY saga_id",
    "saga_event": "SELECT topic || '[' || lpad(partition::text, 5, '0') || ']' || lpad(\"offset\"::text, 20, '0')"
    " AS key, recorded_at, saga_id, seq, event_type, step_name, event_time, started, context_added, error, headers,"
    ' value, hash FROM saga_event ORDER BY topic COLLATE "C", partition, "offset"',
    "parked": "SELECT topic || '[' || lpad(partition::text, 5, '0') || ']' || lpad(\"offset\"::text, 20, '0') AS key,"
    " saga_id, reason, recorded_at, headers, value, released, released_at FROM parked"
    ' WHERE "group" LIKE \'%-log\' ORDER BY topic COLLATE "C", partition, "offset"',
    "start_request": "SELECT saga_id::text AS key, saga, generation, request_hash, record FROM start_request"
    " ORDER BY saga_id",
    "step_execution": "SELECT saga_id::text || ' ' || step AS key, status, attempt, back_attempt, round, back_round,"
    f' started, answer, back_answer FROM step_execution WHERE {SETTLED} ORDER BY saga_id, step COLLATE "C"',
    "order_register": "SELECT saga_id::text AS key, account, venue, symbol, side, quantity, order_type, limit_price,"
    " worst_price, time_in_force, quote, hold_asset, hold, notional, status FROM order_register ORDER BY saga_id",
    "risk_exposure": "SELECT account || ' ' || asset AS key, exposure, open_orders FROM risk_exposure"
    " ORDER BY (account || ' ' || asset) COLLATE \"C\"",
    "ledger_account": "SELECT owner || ' ' || asset || ' ' || kind AS key, balance FROM ledger_account"
    " ORDER BY (owner || ' ' || asset || ' ' || kind) COLLATE \"C\"",
    "ledger_entry": "SELECT saga_id::text || ' ' || step || ' ' || direction || ' ' || owner || ' ' || asset || ' '"
    " || kind AS key, amount FROM ledger_entry ORDER BY (saga_id::text || ' ' || step || ' ' || direction || ' '"
    " || owner || ' ' || asset || ' ' || kind) COLLATE \"C\"",
}
"""The query of each compared table. It leaves out what no fact contains: lane ids and numbers, epochs, due times, times
of writing, whether a bar was seen, and the former reports and inputs of an ended step."""
_OPEN: Final = f"SELECT count(*) FROM step_execution WHERE NOT {SETTLED}"


@dataclass
class Comparison:
    """By table the number of `rows` and of `differing` ones; `told` describes the first of those."""

    rows: dict[str, int] = field(default_factory=dict[str, int])
    differing: dict[str, int] = field(default_factory=dict[str, int])
    told: list[str] = field(default_factory=list[str])
    open_steps: tuple[int, int] = (0, 0)

    @property
    def equal(self) -> bool:
        """Return whether no row differs."""
        return not any(self.differing.values())

    def as_json(self) -> dict[str, Any]:
        """Return the comparison for `--json`."""
        return {"equal": self.equal, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the comparison as text lines."""
        width = max(map(len, QUERIES))
        found = [f"{table:{width}}  {self.rows[table]} rows, {self.differing[table]} differ" for table in self.rows]
        found.append(f"unfinished steps, not compared: {self.open_steps[0]} here, {self.open_steps[1]} there")
        return found + self.told


async def compare(here: str, there: str) -> Comparison:
    """Compare two databases by their URLs, each in one snapshot."""
    found = Comparison()
    async with (
        session(here, application_name="tradesaga recover compare") as mine,
        session(there, application_name="tradesaga recover compare") as theirs,
        _snapshot(mine),
        _snapshot(theirs),
    ):
        for table, query in QUERIES.items():
            await _compare_table(found, table, mine.cursor(query), theirs.cursor(query))
        found.open_steps = (await mine.fetchval(_OPEN), await theirs.fetchval(_OPEN))
    return found


def _snapshot(sql: Connection) -> Any:
    return sql.transaction(isolation="repeatable_read", readonly=True)


async def _compare_table(found: Comparison, table: str, here: Any, there: Any) -> None:
    found.rows[table] = found.differing[table] = 0
    async for mine, theirs in _paired(aiter(here), aiter(there)):
        found.rows[table] += 1
        if difference := _difference(mine, theirs):
            found.differing[table] += 1
            if found.differing[table] <= SHOWN:
                found.told.append(f"{table}: {difference}")


def _difference(mine: asyncpg.Record | None, theirs: asyncpg.Record | None) -> str:
    if mine is None or theirs is None:
        row = mine or theirs
        return f"{row['key'] if row else ''} is only {'here' if theirs is None else 'there'}"
    fields = [name for name in mine.keys() if mine[name] != theirs[name]]  # noqa: SIM118 - a Record iterates its values
    return f"{mine['key']} differs in {', '.join(fields)}" if fields else ""


async def _paired(
    here: AsyncIterator[asyncpg.Record], there: AsyncIterator[asyncpg.Record]
) -> AsyncGenerator[tuple[asyncpg.Record | None, asyncpg.Record | None]]:
    """Pair the rows of two sorted streams by their keys."""
    mine, theirs = await anext(here, None), await anext(there, None)
    while mine is not None or theirs is not None:
        if theirs is None or (mine is not None and mine["key"] < theirs["key"]):
            yield mine, None
            mine = await anext(here, None)
        elif mine is None or theirs["key"] < mine["key"]:
            yield None, theirs
            theirs = await anext(there, None)
        else:
            yield mine, theirs
            mine, theirs = await anext(here, None), await anext(there, None)
