"""The audit log's rows out of PostgreSQL, in the order of the logs, a few thousand at a time."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from tradesaga.consumers.audit.verify.verification import Row
from tradesaga.consumers.saga_log.chain import StoredBytes, read_row
from tradesaga.infra.postgres.database import Connection, Session

PAGE: Final = 5000
_COLUMNS: Final = """
SELECT topic, partition, "offset", (extract(epoch FROM recorded_at) * 1000)::bigint, key, headers, value, hash,
    skipped, saga_id, seq, event_type, step_name, event_time, started
FROM saga_event
"""
_ROWS: Final = f'{_COLUMNS} ORDER BY topic, partition, "offset"'
_LOG: Final = f"""
{_COLUMNS} WHERE topic = $1 AND partition = $2 AND "offset" >= $3 ORDER BY topic, partition, "offset" LIMIT $4
"""
_COUNT: Final = "SELECT coalesce(sum(n_live_tup), 0)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'saga_event%'"


@asynccontextmanager
async def snapshot(sql: Session) -> AsyncGenerator[None]:
    """See the database as it is now, however long the reading takes."""
    async with sql.transaction(isolation="repeatable_read", readonly=True):
        await sql.execute("SET LOCAL statement_timeout = 0")
        await sql.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        # No part of it is detached from here on: what a table consists of is no matter of snapshots.
        await sql.execute("LOCK TABLE saga_event IN ACCESS SHARE MODE")
        yield


async def stream_rows(sql: Session) -> AsyncGenerator[Row]:
    """Give every row, as the database was at one moment; memory does not grow with their number."""
    async with snapshot(sql):
        cursor = await sql.cursor(_ROWS)
        while page := await cursor.fetch(PAGE):
            for row in page:
                yield _row(row)


async def stream_log(sql: Connection, topic: str, partition: int, first: int, limit: int) -> AsyncGenerator[Row]:
    """Give up to `limit` rows of one log from an offset on, in the transaction that is open."""
    cursor = await sql.cursor(_LOG, topic, partition, first, limit)
    while page := await cursor.fetch(PAGE):
        for row in page:
            yield _row(row)


async def estimate_rows(sql: Session) -> int:
    """Guess how many rows there are, for a progress bar."""
    return await sql.fetchval(_COUNT)


def _row(row: asyncpg.Record) -> Row:
    topic, partition, offset, recorded_ms, key, headers, value, found, skipped, *columns = row
    stored = StoredBytes(key, headers, value, found, skipped)
    return Row(read_row((topic, partition, offset, recorded_ms), stored), stored, *columns)
