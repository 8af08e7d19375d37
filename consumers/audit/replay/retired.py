"""What of the audit log was retired: rows that are missing because an operator said so, by an action that is signed."""

from collections.abc import Collection
from typing import Final
from uuid import UUID

from tradesaga.consumers.audit.replay.partial_sagas import Head
from tradesaga.consumers.audit.retention.action_log import read_entries
from tradesaga.consumers.audit.retention.actions import Action, ActionError
from tradesaga.consumers.audit.retention.retired_ranges import Tombstones
from tradesaga.infra.errors import CommandError
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.postgres.database import Connection

_HEADS: Final = """
SELECT saga_id, seq, hash FROM audit_retired_head WHERE topic = $1 AND saga_id = ANY($2::uuid[])
"""


async def read_retired(sql: Connection) -> dict[Place, int]:
    """Give the first offset of each partition that was not retired; the signatures are the business of `verify`.

    Raises `CommandError` (exit 1) for an action that cannot be read.
    """
    try:
        actions = [(entry.number, Action.parse(entry.body)) for entry in await read_entries(sql)]
        stones = Tombstones.read(actions).stones
    except ActionError as error:
        do = "`tradesaga audit verify` tells what has been altered"
        raise CommandError("actions-altered", str(error), "audit log", do) from error
    return {place: max(stone.next_offset for _, stone in each) for place, each in stones.items()}


async def read_heads(sql: Connection, topic: str, sagas: Collection[UUID]) -> dict[UUID, Head]:
    """Give the last retired record of those sagas that have one."""
    return {row["saga_id"]: (row["seq"], row["hash"]) for row in await sql.fetch(_HEADS, topic, list(sagas))}
