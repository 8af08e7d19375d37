"""A program works only on the schema that it was written for, and keeps its version in a table of its own."""

import asyncio

import asyncpg
import pytest

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import known_version, open_pool, session
from tradesaga.infra.postgres.migrate import migrate

pytestmark = pytest.mark.stack
EARLIER = {"application_name": "tradesaga cash"}
"""What sessions of earlier releases say of themselves."""
_NEW_LANE = "INSERT INTO lane (\"group\", topic, partition) VALUES ('cash', 'trade.events', 0)"
_OR_TAKEN_OVER = 'ON CONFLICT ("group", topic, partition) DO UPDATE SET epoch = lane.epoch + 1'


async def _execute(url: str, *statements: str) -> None:
    sql = await asyncpg.connect(url)
    try:
        for statement in statements:
            await sql.execute(statement)
    finally:
        await sql.close()


async def test_later_schema_is_refused(database_url: str) -> None:
    """A schema of a later release is refused with exit code 4, in one sentence that names both versions."""
    await _execute(database_url, "UPDATE tradesaga_schema SET version_num = '9999'")
    for opening in (open_pool(database_url), session(database_url).__aenter__()):
        with pytest.raises(
            CommandError, match=rf"version 9999, later than this program's {known_version()}"
        ) as refused:
            await opening
        assert refused.value.exit_code == ExitCode.REFUSED


@pytest.mark.parametrize(
    "statement", ["DROP TABLE tradesaga_schema", "UPDATE tradesaga_schema SET version_num = '0006'"]
)
async def test_earlier_schema_names_the_command(database_url: str, statement: str) -> None:
    """A schema that is older, or not there, is refused with exit code 5 and the command that brings it up to date."""
    await _execute(database_url, statement)
    with pytest.raises(CommandError, match="run `tradesaga migrate`") as refused:
        await open_pool(database_url)
    assert refused.value.exit_code == ExitCode.UNAVAILABLE


async def test_earlier_release_takes_no_lane(database_url: str) -> None:
    """A session of an earlier release cannot take a lane over, and is told why; a batch's own update passes."""
    await _execute(database_url, _NEW_LANE)
    sql = await asyncpg.connect(database_url, server_settings=EARLIER)
    try:
        for claim in (_NEW_LANE, f"{_NEW_LANE} {_OR_TAKEN_OVER}", "UPDATE lane SET epoch = epoch + 1"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="a later release of tradesaga"):
                await sql.execute(claim)
        await sql.execute("UPDATE lane SET next_offset = next_offset + 1")
    finally:
        await sql.close()


async def test_earlier_release_cannot_migrate(database_url: str) -> None:
    """What alembic reads first by its default settings refuses to be read, with the same sentence."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="a later release of tradesaga"):
        await _execute(database_url, "SELECT version_num FROM alembic_version")


async def test_version_of_an_earlier_release_is_taken_over(database_url: str) -> None:
    """A database that went down to an earlier release's schema comes up again, and refuses that release again."""
    await asyncio.to_thread(migrate, database_url, "0006")
    await _execute(database_url, "DROP TABLE tradesaga_schema")
    await asyncio.to_thread(migrate, database_url)
    pool = await open_pool(database_url)
    async with pool:
        assert await pool.fetchval("SELECT version_num FROM tradesaga_schema") == known_version()
    await test_earlier_release_cannot_migrate(database_url)


async def test_table_of_another_application_is_left_alone(database_url: str) -> None:
    """Another application's `alembic_version` in the same database is neither read nor changed."""
    await asyncio.to_thread(migrate, database_url, "base")
    await _execute(
        database_url,
        "DROP TABLE IF EXISTS alembic_version",
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('0003')",
    )
    await asyncio.to_thread(migrate, database_url)
    pool = await open_pool(database_url)
    async with pool:
        assert await pool.fetchval("SELECT string_agg(version_num, ',') FROM alembic_version") == "0003"
