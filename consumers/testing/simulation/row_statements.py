"""The statements on step rows, run on the simulated database."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from tradesaga.consumers.runtime import dead_letters, processor, step_rows
from tradesaga.consumers.testing.simulation.database import Statement, Transaction
from tradesaga.infra import pauses

TABLE: Final = "step_execution"


def row_statements() -> Mapping[str, Statement]:
    """Return the function for each shipped statement."""
    return {
        step_rows.LOAD: load,
        step_rows.LOAD_DUE: load_due,
        step_rows.NEXT_DUE: next_due,
        step_rows.LOAD_HELD: load_held,
        "COPY step_execution": copy,
        step_rows.INSERT: insert,
        step_rows.UPDATE: update,
        processor.PAUSES: read_pauses,
        pauses.PAUSE: pause,
        pauses.RESUME: resume,
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


async def next_due(tx: Transaction, lanes: Sequence[int], steps: Sequence[str], until: datetime) -> list[Any]:
    """Return the seconds until the first due time before `until`."""
    first = min((at for at, _ in _due(tx, lanes, steps) if _time(at) < until), default=None)
    return [{"due": None if first is None else first - tx.database.now()}]


async def load_held(
    tx: Transaction, lanes: Sequence[int], after: Sequence[datetime], steps: Sequence[str], limit: int
) -> list[Any]:
    """Read the first rows of each lane that are due after a time, and those due at the same time as the last one."""
    found: list[tuple[float, tuple[Any, ...]]] = []
    for lane, begin in zip(lanes, after, strict=True):
        rows = sorted(each for each in _due(tx, [lane], steps) if _time(each[0]) > begin)
        last = rows[:limit][-1][0] if rows else 0.0
        found += [each for each in rows if each[0] <= last]
    return [{**stored[0], "due": _time(at)} for at, key in sorted(found) if (stored := tx.get(TABLE, key)) is not None]


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=at)


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


async def read_pauses(tx: Transaction) -> list[Any]:
    """Read what is paused; a pause is stored with the time at which an operator ends it."""
    now = tx.database.now()
    return [{"scope": scope, "key": key} for (scope, key), until in tx.rows("hold") if now < until]


async def pause(tx: Transaction, scope: str, key: str, *_: str) -> str:
    """Insert or replace a pause, which ends only when it is deleted."""
    await tx.lock("hold", (scope, key))
    tx.put("hold", (scope, key), math.inf)
    return "INSERT 0 1"


async def resume(tx: Transaction, scope: str, key: str) -> str:
    """Delete a pause."""
    if await tx.lock("hold", (scope, key)) is None:
        return "DELETE 0"
    tx.put("hold", (scope, key), None)
    return "DELETE 1"


async def find_set_aside(tx: Transaction, *_: object) -> list[Any]:  # noqa: ARG001 - all processes know the same versions
    """Return no records: none waits for another version of the definition."""
    return []
