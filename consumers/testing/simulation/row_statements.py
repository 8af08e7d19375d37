"""The statements on step rows, run on the simulated database."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from tradesaga.consumers.runtime import dead_letters, processor, step_rows
from tradesaga.consumers.testing.simulation.database import Statement, Transaction

TABLE: Final = "step_execution"


def row_statements() -> Mapping[str, Statement]:
    """Return the function for each shipped statement."""
    return {
        step_rows.LOAD: load,
        step_rows.LOAD_DUE: load_due,
        step_rows.NEXT_DUE: next_due,
        "COPY step_execution": copy,
        step_rows.INSERT: insert,
        step_rows.UPDATE: update,
        processor.PAUSES: pauses,
        dead_letters.FIND_PARKED: find_set_aside,
    }


async def load(tx: Transaction, sagas: Sequence[UUID], steps: Sequence[str]) -> list[Any]:
    """Lock and read rows in the order of their keys."""
    keys = sorted(set(zip(sagas, steps, strict=True)))
    found = [await tx.lock(TABLE, key) for key in keys if tx.get(TABLE, key) is not None]
    return [stored[0] for stored in found if stored is not None]


async def load_due(tx: Transaction, lanes: Sequence[int], steps: Sequence[str], limit: int) -> list[Any]:
    """Lock and read the rows that are due, oldest first; rows that others have locked are skipped."""
    now = tx.database.now()
    free = [key for at, key in sorted(_due(tx, lanes, steps)) if at <= now and tx.try_lock(TABLE, key)]
    return [stored[0] for key in free[:limit] if (stored := tx.get(TABLE, key)) is not None]


async def next_due(tx: Transaction, lanes: Sequence[int], steps: Sequence[str]) -> list[Any]:
    """Return the seconds until the first due time."""
    first = min((at for at, _ in _due(tx, lanes, steps)), default=None)
    return [{"due": None if first is None else first - tx.database.now()}]


def _due(tx: Transaction, lanes: Sequence[int], steps: Sequence[str]) -> list[tuple[float, tuple[Any, ...]]]:
    return [
        (at, key)
        for key, (columns, at) in tx.rows(TABLE)
        if at is not None and columns["lane"] in lanes and columns["step"] in steps
    ]


def is_unchanged(columns: dict[str, Any], known: tuple[int, int, int]) -> bool:
    """Return whether a row has the status and attempts that its owner has read."""
    return (columns["status"], columns["attempt"], columns["back_attempt"]) == known


async def copy(tx: Transaction, _columns: Sequence[str], records: Sequence[Sequence[Any]]) -> str:
    """Insert rows without a due time; fails if one of their keys exists."""
    for values in records:
        await tx.insert(TABLE, (values[0], values[1]), timed(tx, values, None))
    return f"COPY {len(records)}"


async def insert(tx: Transaction, *arrays: Sequence[Any]) -> str:
    """Insert the rows whose keys do not exist."""
    written = 0
    for *values, wait in zip(*arrays, strict=True):
        key = (values[0], values[1])
        if await tx.lock(TABLE, key) is None:
            tx.put(TABLE, key, timed(tx, values, wait))
            written += 1
    return f"INSERT 0 {written}"


async def update(tx: Transaction, *arrays: Sequence[Any]) -> str:
    """Write the rows whose status and attempts are as known (compare and set)."""
    written = 0
    for *values, wait, status, attempt, back_attempt in zip(*arrays, strict=True):
        key = (values[0], values[1])
        stored = await tx.lock(TABLE, key)
        if stored is not None and is_unchanged(stored[0], (status, attempt, back_attempt)):
            tx.put(TABLE, key, timed(tx, values, wait))
            written += 1
    return f"UPDATE {written}"


def timed(tx: Transaction, values: Sequence[Any], wait: float | None) -> tuple[dict[str, Any], float | None]:
    """Return a row with the time at which it is due."""
    due = None if wait is None else tx.database.now() + wait
    return dict(zip(step_rows.COLUMNS, values, strict=True)), due


async def pauses(tx: Transaction) -> list[Any]:
    """Read what is paused."""
    return [{"scope": scope, "key": key} for (scope, key), _ in tx.rows("hold")]


async def find_set_aside(tx: Transaction, *_: object) -> list[Any]:  # noqa: ARG001 - all processes know the same versions
    """Return no records: none waits for another version of the definition."""
    return []
