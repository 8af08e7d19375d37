"""The audit log's rows of one partition, read in offset order beside the records that they are of."""

from collections import deque
from typing import Final

import asyncpg
from asyncpg.cursor import Cursor

from tradesaga.consumers.audit.replay.ranges import Span
from tradesaga.consumers.saga_log.chain import FORMAT, format_of
from tradesaga.consumers.saga_log.rules import Rules
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.postgres.database import Session

PAGE: Final = 2000
_ENDS: Final = 'SELECT topic, partition, next_offset FROM lane WHERE "group" = $1 AND topic = $2 AND next_offset > 0'
# Columns in the order of `differences.FIELDS`.
_ROWS: Final = """
SELECT "offset", (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_ms, key, headers, value, event_type,
    step_name, event_time, started, saga_id, seq, hash, context_added, error, skipped
FROM saga_event WHERE topic = $1 AND partition = $2 AND "offset" >= $3 AND "offset" < $4 ORDER BY "offset"
"""


async def read_log_ends(sql: Session, rules: Rules) -> dict[Place, int]:
    """Say up to which offset the saga log has taken each partition in."""
    rows = await sql.fetch(_ENDS, f"{rules.saga.name}-log", rules.topic)
    return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}


class Rows:
    """A cursor over the rows of a span; the caller holds the transaction.

    Rows before `retired` may be missing. Hashes are of format 2 from the offset `leaves_from` on.
    """

    def __init__(self, sql: Session, place: Place, span: Span, retired: int = 0, leaves_from: int = 0) -> None:
        self.retired = retired
        self._leaves_from = leaves_from
        self._sql = sql
        self._asked = (*place, *span)
        self._page: deque[asyncpg.Record] = deque()
        self._cursor: Cursor[asyncpg.Record] | None = None

    def form_of(self, record: Record, row: asyncpg.Record | None) -> int:
        """Return the format of a record's hash: what its row says, and where that was retired, its offset."""
        if row is not None:
            return format_of(row["hash"])
        return FORMAT if record.offset >= self._leaves_from else 1

    async def up_to(self, offset: int) -> list[asyncpg.Record]:
        """Give the rows that have not been given yet, up to this offset."""
        found: list[asyncpg.Record] = []
        while True:
            while self._page and self._page[0]["offset"] <= offset:
                found.append(self._page.popleft())
            if self._page or not await self._turn():
                return found

    async def _turn(self) -> bool:
        if self._cursor is None:
            self._cursor = await self._sql.cursor(_ROWS, *self._asked)
        self._page.extend(await self._cursor.fetch(PAGE))
        return bool(self._page)
