"""The schema: up, down and up again; equal to its mirror in SQLAlchemy; partitions made and dropped."""

import asyncio
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.schema_mirror import ledger_tables as book
from tests.schema_mirror.core_tables import METADATA
from tradesaga.consumers.runtime import step_rows
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack.postgres import start_postgres, stop_postgres
from tradesaga.infra.local_stack.state import PostgresState
from tradesaga.infra.postgres.database import open_pool, session
from tradesaga.infra.postgres.migrate import migrate
from tradesaga.infra.postgres.partitions import create_month_partitions, ensure_partitions, wanted_partitions

pytestmark = pytest.mark.stack
assert book.account.metadata is METADATA


async def test_tables_mirror_the_migrated_database(database_url: str) -> None:
    """Autogenerate finds nothing to change, and the keys and checks it does not compare are the same too."""

    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(database_url)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []
        assert await connection.run_sync(_reflected) == _declared()
    await engine.dispose()


def _differences(connection: Connection) -> list[object]:
    partitions = set(connection.scalars(text("SELECT relname FROM pg_class WHERE relispartition")))

    def include(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "table" or name not in {*partitions, "tradesaga_schema"}

    options = {"compare_type": True, "compare_server_default": True, "include_name": include}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), METADATA))


def _reflected(connection: Connection) -> dict[str, tuple[list[str], int]]:
    inspector = inspect(connection)
    return {
        name: (inspector.get_pk_constraint(name)["constrained_columns"], len(inspector.get_check_constraints(name)))
        for name in METADATA.tables
    }


def _declared() -> dict[str, tuple[list[str], int]]:
    return {
        table.name: (
            [column.name for column in table.primary_key],
            len([constraint for constraint in table.constraints if isinstance(constraint, CheckConstraint)]),
        )
        for table in METADATA.sorted_tables
    }


async def test_schema_goes_down_and_up_again(database_url: str) -> None:
    """Every migration can be taken back to nothing, and the second way up gives the same schema as the first."""
    before = await _fingerprint(database_url)
    await asyncio.to_thread(migrate, database_url, "base")
    assert await _fingerprint(database_url) == []
    await asyncio.gather(*(asyncio.to_thread(migrate, database_url) for _ in range(3)))
    assert await _fingerprint(database_url) == before


async def _fingerprint(url: str) -> list[str]:
    """List columns, indexes, functions and triggers; partitions without their dates, which depend on the day."""
    sql = await asyncpg.connect(url)
    try:
        rows = await sql.fetch(
            "SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable"
            " FROM information_schema.columns WHERE table_schema = 'public'"
            " AND table_name NOT IN ('alembic_version', 'tradesaga_schema')"
            " UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"
            " AND tablename NOT IN ('alembic_version', 'tradesaga_schema')"
            " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
            " UNION ALL SELECT tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
        )
    finally:
        await sql.close()
    return [re.sub(r"_20\d{6}", "_date", row[0]) for row in rows]


async def test_audit_log_refuses_change(database_url: str) -> None:
    """UPDATE, DELETE and TRUNCATE are refused on the audit log and on each of its partitions."""
    async with session(database_url) as sql:
        month = f"saga_event_{datetime.now(UTC):%Y%m}01"
        await sql.execute(
            'INSERT INTO saga_event (topic, partition, "offset", recorded_at, headers, hash, writer_epoch)'
            " VALUES ('t', 0, 0, now(), '', '', 1)"
        )
        for statement in (
            "UPDATE saga_event SET topic = 'x'", "DELETE FROM saga_event", "TRUNCATE saga_event",
            f"DELETE FROM {month}", f"TRUNCATE {month}", "TRUNCATE saga_event_default",
        ):  # fmt: skip
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await sql.execute(statement)
        assert await sql.fetchval(f"SELECT count(*) FROM {month}") == 1


async def test_partitions_are_made_once_and_dropped_when_published(database_url: str) -> None:
    """Rows land in dated partitions; an old outbox partition goes only when every lane's mark has passed its rows."""
    async with session(database_url) as sql:
        await ensure_partitions(sql)  # the tests' template may be yesterday's
        assert await ensure_partitions(sql) == []
        names = [span.name for span in wanted_partitions(datetime.now(UTC))]
        await sql.execute(f"DROP TABLE {', '.join(names)}")
        assert await ensure_partitions(sql) == [f"created {name}" for name in names]
        await sql.execute(
            "CREATE TABLE outbox_20200101 PARTITION OF outbox FOR VALUES FROM ('2020-01-01') TO ('2020-01-02');"
            "INSERT INTO lane (\"group\", topic, partition, last_seq) VALUES ('g', 't', 0, 2);"
            "INSERT INTO outbox SELECT id, 2, gen_random_uuid(), '', '', '', '', '', '2020-01-01 12:00' FROM lane"
        )
        assert await ensure_partitions(sql) == []
        await sql.execute("UPDATE lane SET published_seq = 2")
        assert await ensure_partitions(sql) == ["dropped outbox_20200101"]


async def test_months_of_the_past_are_made_for_a_log_that_is_rebuilt(database_url: str) -> None:
    """From the first record's month to the present one, once; records of then lie in them."""
    async with session(database_url) as sql:
        now = datetime.now(UTC)
        since = now - timedelta(days=100)
        made = await create_month_partitions(sql, since)
        assert made[0] == f"saga_event_{since:%Y%m}01"
        assert len(made) in {3, 4}
        assert f"saga_event_{now:%Y%m}01" not in made
        assert await create_month_partitions(sql, since) == []
        await sql.execute(
            'INSERT INTO saga_event (topic, partition, "offset", recorded_at, headers, hash, writer_epoch)'
            " VALUES ('t', 0, 0, $1, '', '', 1)",
            since,
        )
        assert await sql.fetchval("SELECT tableoid::regclass::text FROM saga_event") == made[0]
        for statement in (f"DELETE FROM {made[0]}", f"TRUNCATE {made[0]}"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await sql.execute(statement)


async def test_occupied_range_stays_in_the_default_partition(database_url: str) -> None:
    """A partition is not forced onto rows that the default one holds already; nothing is lost or refused."""
    async with session(database_url) as sql:
        await sql.execute(f"DROP TABLE outbox_{datetime.now(UTC):%Y%m%d}")
        await sql.execute("INSERT INTO outbox SELECT 1, 1, gen_random_uuid(), '', '', '', '', ''")
        made = await ensure_partitions(sql)
        assert f"created outbox_{datetime.now(UTC):%Y%m%d}" not in made
        await sql.execute("INSERT INTO outbox SELECT 1, 2, gen_random_uuid(), '', '', '', '', ''")
        assert await sql.fetchval("SELECT count(*) FROM outbox_default") == 2


async def test_pool_sessions_carry_their_limits(database_url: str) -> None:
    """The server itself ends what waits too long, also after a session has been reset for its next user."""
    pool = await open_pool(database_url, min_size=1, max_size=1, application_name="limits")
    try:
        for _ in range(2):
            async with pool.acquire() as sql:
                limits = [
                    await sql.fetchval(f"SHOW {name}")
                    for name in ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout")
                ]
                assert limits == ["8s", "3s", "15s"]
                await sql.execute("SET lock_timeout = '1h'")
    finally:
        await pool.close()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ((r"//tradesaga:[^@]*@", "//tradesaga:wrong@"), "database-credentials"),
        ((r"/[^/]*$", "/nowhere"), "database-missing"),
        ((r":\d+/", ":1/"), "database-unavailable"),
        ((r"^postgresql", "mysql"), "database-url"),
        ((r":\d+/", ":port/"), "database-url"),
    ],
)
async def test_wrong_address_is_explained(database_url: str, change: tuple[str, str], code: str) -> None:
    """Each way for the URL to be wrong has an error of its own, exit code 5, that does not show the password."""
    wrong = re.sub(*change, database_url)
    with pytest.raises(CommandError) as pooled:
        await open_pool(wrong)
    with pytest.raises(CommandError) as migrated:
        await asyncio.to_thread(migrate, wrong)
    for raised in (pooled.value, migrated.value):
        assert (raised.code, raised.exit_code) == (code, ExitCode.UNAVAILABLE)
        password = database_url.split("@", maxsplit=1)[0].rsplit(":", 1)[1]
        assert password not in str(raised)


async def test_an_earlier_release_finds_held_steps(database_url: str) -> None:
    """It does not check them when a pause ends: after the way back they are due, and others are as they were."""
    held, waiting = f"clock_timestamp() + {step_rows.HELD} * interval '1 second'", "'2400-01-01+00'"
    sql = await asyncpg.connect(database_url)
    try:
        for number, due in enumerate((held, waiting)):
            await sql.execute(
                f"INSERT INTO step_execution (saga_id, step, lane, status, due) VALUES ($1, 's', 1, 2, {due})",
                UUID(int=number),
            )
    finally:
        await sql.close()
    await asyncio.to_thread(migrate, database_url, "0015")
    sql = await asyncpg.connect(database_url)
    try:
        rows = await sql.fetch("SELECT due <= clock_timestamp() AS due FROM step_execution ORDER BY saga_id")
        assert [row["due"] for row in rows] == [True, False]
    finally:
        await sql.close()


@pytest.mark.full
@pytest.mark.timeout(180)
async def test_schema_is_the_same_on_an_older_server(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's PostgreSQL takes the migrations up, down and up, and ends with the schema of the shipped server."""
    monkeypatch.setenv("TRADESAGA_PG_BIN", "/usr/lib/postgresql/15/bin")
    state = await asyncio.to_thread(start_postgres, tmp_path, PostgresState())
    try:
        for revision in ("head", "base", "head"):
            await asyncio.to_thread(migrate, state.url, revision)
        async with session(state.url) as sql:
            assert (await sql.fetchval("SHOW server_version")).startswith("15")
        assert await _fingerprint(state.url) == await _fingerprint(database_url)
    finally:
        await asyncio.to_thread(stop_postgres, state)
        await asyncio.to_thread(shutil.rmtree, state.data)
