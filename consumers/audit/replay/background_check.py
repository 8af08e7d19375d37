"""What nobody touches any more, looked at again in turn: sagas' rows, and their chains in the audit log."""

from collections.abc import Iterator, Sequence
from uuid import UUID

import asyncpg

from tradesaga.consumers.audit.log.rows import read_chains, to_row
from tradesaga.consumers.audit.replay.differences import (
    Difference,
    compare_fields,
    compare_sagas,
    expected_fields,
    format_value,
)
from tradesaga.consumers.audit.retention.retired_ranges import read_heads
from tradesaga.consumers.audit.verify.chain_heads import Head
from tradesaga.consumers.saga_log import store
from tradesaga.consumers.saga_log.chain import format_of, hash_row
from tradesaga.consumers.saga_log.checkpoint import Checkpoint, Tracked
from tradesaga.consumers.saga_log.rules import Rules
from tradesaga.infra.postgres.database import Connection


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
    for row in await read_chains(sql, rules.topic, started):
        head, differences = _chain(heads.get(row["saga_id"], (0, b"")), row)
        heads[row["saga_id"]] = head
        found += differences
    found += (each for saga_id in started for each in _ended(saga_id, started[saga_id], heads.get(saga_id, (0, b""))))
    return found


def _chain(head: Head, row: asyncpg.Record) -> tuple[Head, Iterator[Difference]]:
    record, stored, *_ = to_row(row)
    made = (head[0] + 1, hash_row(head[1], record, stored))
    expected = {
        **expected_fields(record, format_of(stored.hash)),
        "headers": row["headers"],
        "seq": made[0],
        "hash": made[1],
    }
    return made, compare_fields(record, row, expected)


def _ended(saga_id: UUID, mine: Checkpoint, found: Head) -> Iterator[Difference]:
    where = f"rows of saga {saga_id}"
    if found[0] != mine.seq:
        yield Difference(where, "number", str(mine.seq), str(found[0]))
    elif found[1] != mine.head:
        yield Difference(where, "last hash", format_value(mine.head), format_value(found[1]))
