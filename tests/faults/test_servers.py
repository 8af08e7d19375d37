"""What the fault run does to its PostgreSQL is what it says: a disk without room, given back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from tests.faults.servers import Database
from tests.waiting import until
from tradesaga.infra.postgres.database import DATABASE_ERRORS

ROW = "x" * 1_000_000
ROWS = 12
"""More than any file of the server may take while there is no room."""


pytestmark = pytest.mark.stack


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """Give a server whose files can be limited, with a table that only grows."""
    database = Database(tmp_path, tmpfs=False)
    await database.start()
    try:
        await database.execute("CREATE TABLE heap (number serial, text text)")
        await database.execute("ALTER TABLE heap ALTER COLUMN text SET STORAGE EXTERNAL")
        yield database
    finally:
        await database.stop()


async def insert(url: str) -> int:
    """Insert a row, and give the number of it that the server has acknowledged."""
    sql = await asyncpg.connect(url, timeout=10)
    try:
        return await sql.fetchval("INSERT INTO heap (text) VALUES ($1) RETURNING number", ROW)
    finally:
        sql.terminate()


async def fill(url: str, told: list[int]) -> None:
    """Insert more than there is room for, and note each row that the server has acknowledged."""
    for _ in range(ROWS):
        told.append(await insert(url))  # noqa: PERF401  # what came before an error is kept


async def test_a_limit_on_files_is_a_full_disk(database: Database) -> None:
    """Nothing can be written while it lasts; afterwards all that was acknowledged is there, and more can be."""
    told = [await insert(database.url)]
    await asyncio.to_thread(database.fill_disk)
    with pytest.raises(DATABASE_ERRORS):
        await fill(database.url, told)
    await asyncio.to_thread(database.free_disk)
    if not database.alive:
        await database.start()

    async def takes_more() -> bool:
        with suppress(*DATABASE_ERRORS):  # it may be replaying its log
            told.append(await insert(database.url))
            return True
        return False

    await until(takes_more)
    sql = await asyncpg.connect(database.url, timeout=10)
    try:
        there = {row[0] for row in await sql.fetch("SELECT number FROM heap")}
    finally:
        await sql.close()
    assert set(told) <= there
