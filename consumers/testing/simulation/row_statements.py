"""What the statements on a participant's rows do to rows."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from tradesaga.consumers.runtime import processor, set_aside, step_rows
from tradesaga.consumers.testing.simulation.database import Statement, Transaction

TABLE = "step_execution"


def row_statements() -> Mapping[str, Statement]:
    """Return the functions by the shipped statements."""
    return {
        step_rows.LOAD: load,
        step_rows.LOAD_DUE: load_due,
        step_rows.NEXT_DUE: next_due,
        "COPY step_execution": copy,
        step_rows.INSERT: insert,
        step_rows.UPDATE: update,
        processor.PAUSES: holds,
        set_aside.FIND: nothing_aside,
    }


async def load(tx: Transaction, sagas: Sequence[UUID], steps: Sequence[str]) -> list[Any]:
    """Lock and read rows in key order."""
    found: list[Any] = []
    for key in sorted(set(zip(sagas, steps, strict=True))):
        if tx.get(TABLE, key) is None:
            continue
        await tx.lock(TABLE, key)
        stored = tx.get(TABLE, key)
        if stored is not None:
            found.append(stored[0])
    return found


async def load_due(tx: Transaction, lanes: Sequence[int], steps: Sequence[str], limit: int) -> list[Any]:
    """Lock and read the rows that are due and that nobody else has locked, oldest first."""
    now = tx.database.now()
    due = [
        (at, key)
        for key, (columns, at) in tx.rows(TABLE)
        if at is not None and at <= now and columns["lane"] in lanes and columns["step"] in steps
    ]
    free = [key for _, key in sorted(due) if tx.try_lock(TABLE, key)]
    return [stored[0] for key in free[:limit] if (stored := tx.get(TABLE, key)) is not None]


async def next_due(tx: Transaction, lanes: Sequence[int], steps: Sequence[str]) -> list[Any]:
    """Return the seconds to the first due time."""
    times = [
        at
        for _, (columns, at) in tx.rows(TABLE)
        if at is not None and columns["lane"] in lanes and columns["step"] in steps
    ]
    return [{"due": min(times) - tx.database.now() if times else None}]


def is_known(columns: dict[str, Any], known: tuple[int, int, int]) -> bool:
    """Return whether a row is as it was when it was judged."""
    return (columns["status"], columns["attempt"], columns["back_attempt"]) == known


async def copy(tx: Transaction, columns: Sequence[str], records: Sequence[Sequence[Any]]) -> str:
    """Insert rows that are due at no time; none, where one of their keys is taken."""
    for values in records:
        named = dict(zip(columns, values, strict=True))
        key = (named["saga_id"], named["step"])
        await tx.lock(TABLE, key)
        if tx.get(TABLE, key) is not None:
            raise asyncpg.UniqueViolationError(f"duplicate key in {TABLE}: {key}")
        put(tx, key, values, None)
    return f"COPY {len(records)}"


async def insert(tx: Transaction, *arrays: Sequence[Any]) -> str:
    """Insert the rows whose keys are free."""
    written = 0
    for *values, wait in zip(*arrays, strict=True):
        key = (values[0], values[1])
        await tx.lock(TABLE, key)
        if tx.get(TABLE, key) is None:
            put(tx, key, values, wait)
            written += 1
    return f"INSERT 0 {written}"


async def update(tx: Transaction, *arrays: Sequence[Any]) -> str:
    """Compare and set."""
    written = 0
    for *values, wait, status, attempt, back_attempt in zip(*arrays, strict=True):
        key = (values[0], values[1])
        await tx.lock(TABLE, key)
        stored = tx.get(TABLE, key)
        if stored is not None and is_known(stored[0], (status, attempt, back_attempt)):
            put(tx, key, values, wait)
            written += 1
    return f"UPDATE {written}"


def put(tx: Transaction, key: tuple[UUID, str], values: Sequence[Any], wait: float | None) -> None:
    """Write a row with the time at which it is due."""
    due = None if wait is None else tx.database.now() + wait
    tx.put(TABLE, key, (dict(zip(step_rows.COLUMNS, values, strict=True)), due))


async def holds(tx: Transaction) -> list[Any]:
    """Read what is paused."""
    return [{"scope": key[0], "key": key[1]} for key, _ in tx.rows("hold")]


async def nothing_aside(tx: Transaction, *_: object) -> list[Any]:  # noqa: ARG001 - all run the same versions
    """Return the records that wait for a version of the definition: none, since all processes know the same."""
    return []
