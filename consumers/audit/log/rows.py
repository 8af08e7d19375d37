"""Reads rows of `saga_event` for all audit commands, with the same columns.

Statements that only count rows or find the ends of a log are beside their callers.
"""

from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from tradesaga.consumers.saga_log.chain import FORMAT, StoredBytes, format_of, read_row
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.postgres.database import Connection, Session

PAGE: Final = 5000
_LEAVES_PAGE: Final = 20_000
COLUMNS: Final = """
topic, partition, "offset", (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_ms, key, headers, value,
    event_type, step_name, event_time, started, saga_id, seq, hash, context_added, error, skipped, writer_epoch
"""
"""The columns of `to_row`, in order."""
IN_SPAN: Final = """topic = $1 AND partition = $2 AND "offset" >= $3 AND "offset" < $4"""
"""A condition for the records of one partition in a range of offsets, end excluded; further arguments begin at `$5`."""
_ALL: Final = f'SELECT {COLUMNS} FROM saga_event ORDER BY topic, partition, "offset"'
_LOG: Final = f"""
SELECT {COLUMNS} FROM saga_event WHERE topic = $1 AND partition = $2 AND "offset" >= $3 ORDER BY "offset" LIMIT $4
"""
_SAGA: Final = f"SELECT {COLUMNS} FROM saga_event WHERE saga_id = $1"
_CHAINS: Final = f"""
SELECT {COLUMNS} FROM saga_event WHERE saga_id = ANY($1::uuid[]) AND topic = $2 AND seq IS NOT NULL
ORDER BY saga_id, seq
"""
_LEAVES: Final = f'SELECT "offset", hash, coalesce(skipped, 0) FROM saga_event WHERE {IN_SPAN} ORDER BY "offset"'
_FIRST: Final = 'SELECT min("offset") FROM saga_event WHERE topic = $1 AND partition = $2'
_COUNT: Final = "SELECT coalesce(sum(n_live_tup), 0)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'saga_event%'"
_WRONG_KEY: Final = "dead letter: the key"
"""The beginning of the error of a record whose key is not its saga's id."""


class Position(NamedTuple):
    """The topic, partition and offset of a record."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        """Return `trade.events[3]@120`."""
        return f"{self.topic}[{self.partition}]@{self.offset}"


class Row(NamedTuple):
    """A row of the audit log: the record, its stored bytes, and the other columns.

    `event_type` to `started` follow from the headers; the others are results of the saga log.
    """

    record: Record
    stored: StoredBytes
    saga_id: UUID | None
    seq: int | None
    event_type: str | None
    step: str | None
    time: int | None
    started: int | None
    added: str | None = None
    error: str | None = None
    writer_epoch: int = 0

    @property
    def hash(self) -> bytes:
        """The stored hash."""
        return self.stored.hash

    @property
    def position(self) -> Position:
        """Topic, partition and offset of the record."""
        return Position(self.record.topic, self.record.partition, self.record.offset)

    def published(self) -> Record:
        """Return the record as it was published.

        Rows of format 1 do not store the key; it was the saga's id unless the row's error says otherwise.
        """
        if format_of(self.hash) == FORMAT or self.saga_id is None or (self.error or "").startswith(_WRONG_KEY):
            return self.record
        return self.record._replace(key=str(self.saga_id).encode())


@asynccontextmanager
async def snapshot(sql: Session) -> AsyncGenerator[None]:
    """Run a block in one read-only snapshot without timeouts."""
    async with sql.transaction(isolation="repeatable_read", readonly=True):
        await sql.execute("SET LOCAL statement_timeout = 0")
        await sql.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        # A snapshot does not prevent that a partition is detached; this lock does.
        await sql.execute("LOCK TABLE saga_event IN ACCESS SHARE MODE")
        yield


def to_row(row: asyncpg.Record) -> Row:
    """Convert a row that was read with `COLUMNS`; further columns are ignored."""
    (topic, partition, offset, recorded_ms, key, headers, value, event_type, step, time, started, saga_id, seq, found,
     added, error, skipped, epoch) = row[:18]  # fmt: skip
    stored = StoredBytes(key, headers, value, found, skipped)
    record = read_row((topic, partition, offset, recorded_ms), stored)
    return Row(record, stored, saga_id, seq, event_type, step, time, started, added, error, epoch)


async def read_pages(
    sql: Connection, statement: str, *args: Any, page: int = PAGE
) -> AsyncGenerator[list[asyncpg.Record]]:
    """Yield the rows of a statement in pages, in constant memory."""
    cursor = await sql.cursor(statement, *args)
    while found := await cursor.fetch(page):
        yield found


async def stream_rows(sql: Connection) -> AsyncGenerator[Row]:
    """Yield every row, by topic, partition and offset."""
    async for page in read_pages(sql, _ALL):
        for row in page:
            yield to_row(row)


async def stream_log(sql: Connection, topic: str, partition: int, first: int, limit: int) -> AsyncGenerator[Row]:
    """Yield up to `limit` rows of one partition from an offset."""
    async for page in read_pages(sql, _LOG, topic, partition, first, limit):
        for row in page:
            yield to_row(row)


def read_span(
    sql: Connection, place: Partition, span: tuple[int, int], condition: str = "", *args: Any, page: int = PAGE
) -> AsyncGenerator[list[asyncpg.Record]]:
    """Yield pages of rows in a range of offsets, in order, for `to_row`.

    `condition` is SQL that begins with AND; its first argument is `$5`.
    """
    statement = f'SELECT {COLUMNS} FROM saga_event WHERE {IN_SPAN} {condition} ORDER BY "offset"'
    return read_pages(sql, statement, *place, *span, *args, page=page)


async def read_saga_rows(sql: Connection, saga_id: UUID) -> list[Row]:
    """Return all rows of one saga, unordered."""
    return [to_row(row) for row in await sql.fetch(_SAGA, saga_id)]


async def read_chains(sql: Connection, topic: str, sagas: Collection[UUID]) -> list[asyncpg.Record]:
    """Return the rows of some sagas that have a number, by saga and number."""
    return await sql.fetch(_CHAINS, list(sagas), topic)


def read_leaves(sql: Connection, place: Partition, span: tuple[int, int]) -> AsyncGenerator[list[asyncpg.Record]]:
    """Yield pages of offset, hash and number of skipped offsets before it, for a range of offsets, in order."""
    return read_pages(sql, _LEAVES, *place, *span, page=_LEAVES_PAGE)


async def first_offset(sql: Connection, topic: str, partition: int) -> int | None:
    """Return the offset of the first record of a partition; None if it has none."""
    return await sql.fetchval(_FIRST, topic, partition)


async def estimate_rows(sql: Connection) -> int:
    """Return an estimate of the number of rows, for a progress bar."""
    return await sql.fetchval(_COUNT)
