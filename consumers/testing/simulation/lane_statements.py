"""The statements on lanes and the outbox, run on the simulated database."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from tradesaga.consumers.testing.simulation.database import Statement, Transaction, select
from tradesaga.infra.outbox import guard, lane_rows, outbox_rows
from tradesaga.infra.postgres import installation

_ACQUIRED: Final = ("id", "topic", "partition", "epoch", "next_offset", "last_seq", "published_seq")


def lane_statements() -> Mapping[str, Statement]:
    """Return the function for each shipped statement."""
    return {
        lane_rows.ACQUIRE: acquire,
        lane_rows.OFFSETS: offsets,
        lane_rows.FENCE: fence,
        lane_rows.ADVANCE: advance,
        lane_rows.MOVE: move,
        lane_rows.OWNED: owned,
        guard.KNOWN: known,
        guard.PIN: pin,
        guard.KEPT: kept,
        installation.IDENTITY: identity,
        outbox_rows.NUMBER: number,
        "COPY outbox": insert,
        outbox_rows.UNPUBLISHED: unpublished,
    }


async def acquire(tx: Transaction, group: str, topics: Sequence[str], numbers: Sequence[int], owner: str) -> list[Any]:
    """Upsert lanes under new epochs, ordered by topic and partition."""
    found: list[dict[str, Any]] = []
    for topic, number in sorted(zip(topics, numbers, strict=True)):
        place = (group, topic, number)
        row: dict[str, Any] | None = await tx.lock("lane", place)
        if row is None:
            tx.database.places[len(tx.database.places) + 1] = place
            row = {
                "id": len(tx.database.places), "group": group, "topic": topic, "partition": number,
                "epoch": 0, "next_offset": 0, "last_seq": 0, "published_seq": 0,
                "topic_id": None, "partitions": None, "seen_offset": None, "seen_crc": None,
            }  # fmt: skip
        row = {**row, "epoch": row["epoch"] + 1, "owner": owner}
        tx.put("lane", place, row)
        found.append(select(row, _ACQUIRED))
    return found


async def offsets(tx: Transaction, group: str) -> list[Any]:
    """Read a group's offsets."""
    return [select(row, ("topic", "partition", "next_offset")) for _, row in tx.rows("lane") if row["group"] == group]


def is_owned(row: dict[str, Any], epoch: int, last_seq: int) -> bool:
    """Return whether a lane is unchanged since its owner last wrote it."""
    return row["epoch"] == epoch and row["last_seq"] == last_seq


async def known(tx: Transaction, prefix: str, group: str) -> list[Any]:
    """Read the lanes of a saga and of a group, with the identities of their topics."""
    found = [row for _, row in tx.rows("lane") if row["topic"].startswith(prefix) or row["group"] == group]
    return sorted(found, key=lambda row: (row["group"], row["topic"], row["partition"]))


async def pin(
    tx: Transaction, group: str, topics: Sequence[str], ids: Sequence[UUID], partitions: Sequence[int]
) -> str:
    """Store the identities of the topics in lanes that have none yet."""
    states = {topic: (id_, count) for topic, id_, count in zip(topics, ids, partitions, strict=True)}
    places = [
        place
        for place, row in tx.rows("lane")
        if row["group"] == group and row["topic"] in states and row["partitions"] is None
    ]
    for place in places:
        row: Any = await tx.lock("lane", place)
        topic_id, count = states[row["topic"]]
        tx.put("lane", place, {**row, "topic_id": topic_id, "partitions": count})
    return f"UPDATE {len(places)}"


async def kept(tx: Transaction, groups: Sequence[str], prefix: str, ids: Sequence[UUID]) -> list[Any]:
    """Return which of the ids are in the outbox of these groups."""
    lanes = {row["id"] for _, row in tx.rows("lane") if row["group"] in groups and row["topic"].startswith(prefix)}
    wanted = set(ids)
    return [{"id": row["id"]} for (lane, _, _), row in tx.rows("outbox") if lane in lanes and row["id"] in wanted]


async def identity(_tx: Transaction) -> list[Any]:
    """Read the identity of the installation; there is one, and it has claimed the topics."""
    return [{"id": UUID(int=1), "incarnation": 0, "claimed": True, "name": "simulated", "host": None, "port": None}]


async def fence(tx: Transaction, *arrays: Sequence[int]) -> list[Any]:
    """Lock the lanes that are still owned, in the order of their ids."""
    found: list[dict[str, int]] = []
    for id_, epoch, last_seq in sorted(zip(*arrays, strict=True)):
        place = tx.database.places[id_]
        row = tx.get("lane", place)
        # Like PostgreSQL, which compares the row again once it has waited for the lock.
        if row is not None and is_owned(row, epoch, last_seq):
            row = await tx.lock("lane", place)
        if row is None or not is_owned(row, epoch, last_seq):
            tx.database.fenced += 1
            continue
        tx.epochs[id_] = epoch
        found.append({"id": id_})
    return found


async def advance(
    tx: Transaction, ids: Sequence[int], epochs: Sequence[int], last: Sequence[int], *watermarks: Sequence[Any]
) -> list[Any]:
    """Pass the fence, and move the watermarks of the lanes that are still owned."""
    found = await fence(tx, ids, epochs, last)
    mine = {row["id"] for row in found}
    for id_, *values in zip(ids, *watermarks, strict=True):
        if id_ in mine:
            _move(tx, id_, values)
    return found


async def move(tx: Transaction, *arrays: Sequence[Any]) -> str:
    """Move the watermarks of lanes, and the numbers of their last outbox rows."""
    for id_, last_seq, *values in zip(*arrays, strict=True):
        place = tx.database.places[id_]
        await tx.lock("lane", place)
        _move(tx, id_, values, last_seq=last_seq)
    return f"UPDATE {len(arrays[0])}"


def _move(tx: Transaction, id_: int, watermarks: Sequence[Any], **others: int) -> None:
    next_offset, published_seq, offset, crc = watermarks
    place = tx.database.places[id_]
    row: Any = tx.get("lane", place)
    tx.put("lane", place, {
        **row,
        "next_offset": max(row["next_offset"], next_offset),
        "published_seq": max(row["published_seq"], published_seq),
        "seen_offset": row["seen_offset"] if offset is None else offset,
        "seen_crc": row["seen_crc"] if crc is None else crc,
        **others,
    })  # fmt: skip


async def owned(tx: Transaction, ids: Sequence[int], epochs: Sequence[int]) -> list[Any]:
    """Return the lanes that have these epochs."""
    rows = {id_: tx.get("lane", tx.database.places[id_]) for id_ in ids}
    known = zip(ids, epochs, strict=True)
    return [{"id": id_} for id_, epoch in known if (row := rows[id_]) is not None and row["epoch"] == epoch]


async def number(tx: Transaction, lanes: Sequence[int], last: Sequence[int]) -> str:
    """Write the number of the last outbox row of each lane."""
    for lane, last_seq in zip(lanes, last, strict=True):
        place = tx.database.places[lane]
        row: Any = await tx.lock("lane", place)
        tx.put("lane", place, {**row, "last_seq": last_seq})
    return f"UPDATE {len(lanes)}"


async def insert(tx: Transaction, columns: Sequence[str], records: Sequence[Sequence[Any]]) -> str:
    """Write outbox rows."""
    for values in records:
        tx.put("outbox", tuple(values[:3]), dict(zip(columns, values, strict=True)))
    return f"COPY {len(records)}"


async def unpublished(tx: Transaction, lane: int, after: int, limit: int) -> list[Any]:
    """Read the outbox rows of a lane after a number."""
    found = [row for (of, seq, _), row in tx.rows("outbox") if of == lane and seq > after]
    return sorted(found, key=lambda row: row["seq"])[:limit]
