"""What the statements on lanes and outbox do to rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from consumers.simulation.database import Statement, Transaction
from infra.lanes import outbox, store


def lane_statements() -> Mapping[str, Statement]:
    """Give the functions by the shipped statements."""
    return {
        store.CLAIM: claim,
        store.OFFSETS: offsets,
        store.ADVANCE: advance,
        outbox.NUMBER: number,
        "COPY outbox": insert,
        outbox.UNPUBLISHED: unpublished,
    }


async def claim(tx: Transaction, group: str, topics: Sequence[str], numbers: Sequence[int], owner: str) -> list[Any]:
    """Upsert lanes under new epochs, in the order of topic and partition."""
    found: list[dict[str, Any]] = []
    for topic, number in sorted(zip(topics, numbers, strict=True)):
        place = (group, topic, number)
        await tx.lock("lane", place)
        row: dict[str, Any] | None = tx.get("lane", place)
        if row is None:
            tx.database.places[len(tx.database.places) + 1] = place
            row = {
                "id": len(tx.database.places), "group": group, "topic": topic, "partition": number,
                "epoch": 0, "next_offset": 0, "last_seq": 0, "published_seq": 0,
            }  # fmt: skip
        row = {**row, "epoch": row["epoch"] + 1, "owner": owner}
        tx.put("lane", place, row)
        found.append({name: row[name] for name in _CLAIMED})
    return found


_CLAIMED = ("id", "topic", "partition", "epoch", "next_offset", "last_seq", "published_seq")


async def offsets(tx: Transaction, group: str) -> list[Any]:
    """Read a group's offsets."""
    return [
        {"topic": row["topic"], "partition": row["partition"], "next_offset": row["next_offset"]}
        for _, row in tx.rows("lane")
        if row["group"] == group
    ]


def is_mine(row: dict[str, Any], epoch: int, last_seq: int) -> bool:
    """Say whether a lane is still the one that its owner knows."""
    return row["epoch"] == epoch and row["last_seq"] == last_seq


async def advance(tx: Transaction, *arrays: Sequence[int]) -> list[Any]:
    """Pass the fence: lock what is mine in the order of ids, and move it on."""
    places = tx.database.places
    moved: list[dict[str, int]] = []
    for id_, epoch, last_seq, next_offset, published_seq in sorted(zip(*arrays, strict=True)):
        place = places[id_]
        row = tx.get("lane", place)
        if row is None or not is_mine(row, epoch, last_seq):
            tx.database.fenced += 1
            continue
        await tx.lock("lane", place)
        row = tx.get("lane", place)
        if row is None or not is_mine(row, epoch, last_seq):
            tx.database.fenced += 1
            continue
        tx.epochs[id_] = epoch
        tx.put("lane", place, {
            **row,
            "next_offset": max(row["next_offset"], next_offset),
            "published_seq": max(row["published_seq"], published_seq),
        })  # fmt: skip
        moved.append({"id": id_})
    return moved


async def number(tx: Transaction, lanes: Sequence[int], last: Sequence[int]) -> str:
    """Write the numbers of the last rows of lanes."""
    for lane, last_seq in zip(lanes, last, strict=True):
        place = tx.database.places[lane]
        await tx.lock("lane", place)
        tx.put("lane", place, {**tx.rows_at("lane", place), "last_seq": last_seq})
    return f"UPDATE {len(lanes)}"


async def insert(tx: Transaction, columns: Sequence[str], records: Sequence[Sequence[Any]]) -> str:
    """Write outbox rows."""
    for values in records:
        tx.put("outbox", tuple(values[:3]), dict(zip(columns, values, strict=True)))
    return f"COPY {len(records)}"


async def unpublished(tx: Transaction, lane: int, after: int, limit: int) -> list[Any]:
    """Read a lane's rows behind a number."""
    found = [row for (of, seq, _), row in tx.rows("outbox") if of == lane and seq > after]
    return sorted(found, key=lambda row: row["seq"])[:limit]
