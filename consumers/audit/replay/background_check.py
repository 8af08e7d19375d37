"""What nobody touches any more, looked at again in turn: sagas' rows, and their chains in the audit log."""

from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

import asyncpg

from tradesaga.consumers.audit.replay.differences import Difference, compare_fields, compare_sagas, said_by, shown
from tradesaga.consumers.audit.replay.partial_sagas import Head
from tradesaga.consumers.audit.replay.retired import read_heads
from tradesaga.consumers.saga_log import store
from tradesaga.consumers.saga_log.chain import StoredBytes, format_of, hash_row, read_row
from tradesaga.consumers.saga_log.checkpoint import Checkpoint, Tracked
from tradesaga.consumers.saga_log.rules import Rules
from tradesaga.infra.postgres.database import Connection

_CHAINS: Final = """
SELECT partition, "offset", (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_ms, saga_id, seq, event_type,
    step_name, event_time, started, key, headers, value, hash, skipped
FROM saga_event WHERE saga_id = ANY($1::uuid[]) AND topic = $2 AND seq IS NOT NULL ORDER BY saga_id, seq
"""


async def compare_states(sql: Connection, rules: Rules, sagas: Sequence[Tracked]) -> list[Difference]:
    """Compare sagas that have been folded as far as the saga log has with their rows."""
    stored = await load_stored(sql, rules, [tracked.saga_id for tracked in sagas])
    return [
        difference
        for tracked in sagas
        for difference in compare_sagas(f"saga {tracked.saga_id}", tracked.checkpoint, stored.get(tracked.saga_id))
    ]


async def load_stored(sql: Connection, rules: Rules, sagas: Sequence[UUID]) -> dict[UUID, Checkpoint | str]:
    """Read sagas' rows; of one that cannot be read, as nothing of ours writes it, say why."""
    try:
        return {**await store.load(sql, rules, sagas)}
    except ValueError as error:
        if len(sagas) == 1:
            return {sagas[0]: f"cannot be read: {error}"}
    found: dict[UUID, Checkpoint | str] = {}
    for saga_id in sagas:
        found |= await load_stored(sql, rules, [saga_id])
    return found


async def compare_chains(sql: Connection, rules: Rules, sagas: Sequence[Tracked]) -> list[Difference]:
    """Chain the audit log's rows of such sagas anew: whatever was altered since, the last hash is another one."""
    started = {tracked.saga_id: tracked.checkpoint for tracked in sagas if tracked.checkpoint is not None}
    heads = await read_heads(sql, rules.topic, started)
    found: list[Difference] = []
    for row in await sql.fetch(_CHAINS, list(started), rules.topic):
        head, differences = _chain(rules, heads.get(row["saga_id"], (0, b"")), row)
        heads[row["saga_id"]] = head
        found += differences
    found += (each for saga_id in started for each in _ended(saga_id, started[saga_id], heads.get(saga_id, (0, b""))))
    return found


def _chain(rules: Rules, head: Head, row: asyncpg.Record) -> tuple[Head, Iterator[Difference]]:
    stored = StoredBytes(row["key"], row["headers"], row["value"], row["hash"], row["skipped"])
    record = read_row((rules.topic, row["partition"], row["offset"], row["recorded_ms"]), stored)
    made = (head[0] + 1, hash_row(head[1], record, stored))
    expected = {**said_by(record, format_of(stored.hash)), "headers": row["headers"], "seq": made[0], "hash": made[1]}
    return made, compare_fields(record, row, expected)


def _ended(saga_id: UUID, mine: Checkpoint, found: Head) -> Iterator[Difference]:
    where = f"rows of saga {saga_id}"
    if found[0] != mine.seq:
        yield Difference(where, "number", str(mine.seq), str(found[0]))
    elif found[1] != mine.head:
        yield Difference(where, "last hash", shown(mine.head), shown(found[1]))
