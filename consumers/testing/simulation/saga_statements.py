"""The statements of the saga log, run on the simulated database."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from tradesaga.consumers.saga_log import store
from tradesaga.consumers.testing.simulation.database import Statement, Transaction, select

SAGA: Sequence[str] = (
    "saga_id", "lane", "version", "state", "current_step_index", "completed_steps", "compensated_steps", "context",
    "progress", "seq", "head", "deadline", "deadline_due", "request_hash", "created_at", "updated_at",
)  # fmt: skip
PARKED: Sequence[str] = ("topic", "partition", "offset", "saga_id", "reason", "recorded_at", "headers", "value")
_CHANGED = ("state", "context", "seq", "head", "deadline_due", "updated_at", "lane")
_PROGRESS = ("current_step_index", "completed_steps", "compensated_steps", "progress")


def saga_statements() -> Mapping[str, Statement]:
    """Return the function for each shipped statement."""
    return {
        store.LOAD: load,
        store.WRITE: write,
        "COPY saga_event": insert_events,
        store.PARK: park,
        store.RELEASE: release,
        store.LAST_OFFSETS: last_offsets,
        store.PARKED_SAGAS: parked_sagas,
        store.PARKED_FOR_VERSION: parked_for_version,
        store.PARKED: parked,
        store.DUE: due,
        store.NEXT_DUE: next_due,
    }


async def load(tx: Transaction, sagas: Sequence[UUID]) -> list[Any]:
    """Read checkpoints."""
    found = [row for saga_id in sagas if (row := tx.get("saga", (saga_id,))) is not None]
    return [{**row, "pending": row["deadline_due"] is not None} for row in found]


async def write(tx: Transaction, *arrays: Any) -> str:
    """Upsert checkpoints. An empty progress keeps the stored one, which only another version can read."""
    *columns, name = arrays
    for values in zip(*columns, strict=True):
        row = dict(zip(SAGA, values, strict=True))
        key = (row["saga_id"],)
        before = await tx.lock("saga", key)
        if before is None:
            tx.put("saga", key, {**row, "name": name})
            continue
        changed = (*_CHANGED, *_PROGRESS) if row["progress"] else _CHANGED
        tx.put("saga", key, {**before, **select(row, changed)})
    return f"INSERT 0 {len(columns[0])}"


async def insert_events(tx: Transaction, columns: Sequence[str], records: Sequence[Sequence[Any]]) -> str:
    """Insert rows of the audit log; fails if one of their keys exists."""
    for values in records:
        await tx.insert("saga_event", tuple(values[:4]), dict(zip(columns, values, strict=True)))
    return f"COPY {len(records)}"


async def park(tx: Transaction, group: str, *columns: Sequence[Any]) -> str:
    """Park records."""
    for values in zip(*columns, strict=True):
        row = {"group": group, **dict(zip(PARKED, values, strict=True)), "released": None, "released_at": None}
        tx.put("parked", (group, *values[:3]), row)
    return f"INSERT 0 {len(columns[0])}"


async def release(tx: Transaction, group: str, *columns: Sequence[Any]) -> str:
    """Mark parked records as released."""
    marked = 0
    for topic, partition, offset, action, at in zip(*columns, strict=True):
        key = (group, topic, partition, offset)
        row = await tx.lock("parked", key)
        if row is not None:
            tx.put("parked", key, {**row, "released": action, "released_at": at})
            marked += 1
    return f"UPDATE {marked}"


async def last_offsets(tx: Transaction, lanes: Sequence[int]) -> list[Any]:
    """Return the offset of the last record that each lane has read or written to the audit log."""
    found: list[Any] = []
    for _, lane in tx.rows("lane"):
        if lane["id"] in lanes:
            place = (lane["topic"], lane["partition"])
            read = [key[2] for key, _ in tx.rows("saga_event") if key[:2] == place and key[2] < lane["next_offset"]]
            read += [lane["seen_offset"]] if lane["seen_offset"] is not None else []
            found.append({"id": lane["id"], "offset": max(read, default=None)})
    return found


async def parked_sagas(tx: Transaction, group: str, topic: str, partitions: Sequence[int]) -> list[Any]:
    """Return the sagas that have parked records."""
    sagas = {
        row["saga_id"]: None
        for key, row in tx.rows("parked")
        if key[:2] == (group, topic) and key[2] in partitions and row["released"] is None and row["saga_id"] is not None
    }
    return [{"saga_id": saga_id} for saga_id in sagas]


async def parked_for_version(tx: Transaction, group: str, sagas: Sequence[UUID], reason: str) -> list[Any]:
    """Return the first parked record of each saga, if it is parked for this reason."""
    first: dict[UUID, dict[str, Any]] = {}
    for row in await parked(tx, group, sagas):
        first.setdefault(row["saga_id"], row)
    columns = ("saga_id", "topic", "partition", "offset", "reason")
    return [select(row, columns) for row in first.values() if row["reason"].startswith(reason)]


async def parked(tx: Transaction, group: str, sagas: Sequence[UUID]) -> list[Any]:
    """Read the parked records of these sagas in the order of their offsets."""
    found = [
        (key, select(row, PARKED))
        for key, row in tx.rows("parked")
        if key[0] == group and row["saga_id"] in sagas and row["released"] is None
    ]
    return [row for _, row in sorted(found, key=lambda each: each[0])]


async def due(tx: Transaction, lanes: Sequence[int], limit: int, lead: float) -> list[Any]:
    """Return the sagas whose deadline has passed; `lead` is in seconds."""
    now = tx.database.timestamp() - timedelta(seconds=lead)
    passed = [(at, saga_id) for at, saga_id in _deadlines(tx, lanes) if at <= now]
    return [{"saga_id": saga_id} for _, saga_id in sorted(passed)[:limit]]


async def next_due(tx: Transaction, lanes: Sequence[int]) -> list[Any]:
    """Return the seconds until the first deadline."""
    first = min((at for at, _ in _deadlines(tx, lanes)), default=None)
    return [{"due": None if first is None else (first - tx.database.timestamp()).total_seconds()}]


def _deadlines(tx: Transaction, lanes: Sequence[int]) -> list[tuple[datetime, UUID]]:
    return [
        (row["deadline_due"], row["saga_id"])
        for _, row in tx.rows("saga")
        if row["deadline_due"] is not None and row["lane"] in lanes
    ]
