"""A database user has the rights of its role: services append to the audit log, and change nothing that is in it."""

import asyncio
import io
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from tests.e2e.harness import open_bench
from tests.e2e.steps import BUSY
from tests.integration.consumers.audit.rig import AuditRig
from tests.schema_mirror.core_tables import METADATA
from tradesaga.infra.cli.entry import execute
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import open_pool, session
from tradesaga.infra.postgres.partitions import ensure_partitions
from tradesaga.infra.postgres.roles import APPEND, Role, grants

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]
LOGIN = "secret"
COLUMNS = {"saga_event": "error", "audit_checkpoint": "note", "audit_action": "body", "ledger_entry": "amount"}


@asynccontextmanager
async def user(database_url: str, role: Role) -> AsyncGenerator[str]:
    """Give the URL of a new user with the rights of a role."""
    name = f"test_{uuid4().hex[:12]}"
    async with session(database_url) as owner:
        await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{LOGIN}'")
        try:
            for _ in range(2):
                for statement in await grants(owner, name, role):
                    await owner.execute(statement)
            parts = urlsplit(database_url)
            place = parts.netloc.rpartition("@")[2]
            yield parts._replace(netloc=f"{name}:{LOGIN}@{place}").geturl()
        finally:
            await owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_services_do_their_work_and_change_nothing_in_the_audit_log(kafka: str, database_url: str) -> None:
    """Steps, calls, compensations and the saga log run under them; what was recorded is refused by right alone."""
    async with open_bench(kafka, database_url, patience=BUSY) as bench, user(database_url, Role.SERVICES) as url:
        bench.pool, owners = await open_pool(url, max_size=4), bench.pool
        try:
            await bench.serve_all()
            sagas = [await bench.ask(), await bench.ask(confirm="lost")]
            states = {(await bench.settled(saga_id))["state"] for saga_id in sagas}
            assert states == {"COMPLETED", "ABORTED"}
            async with bench.pool.acquire() as sql:
                assert await ensure_partitions(sql) == []
                for table in sorted(APPEND):
                    for statement in (
                        f"UPDATE {table} SET {COLUMNS[table]} = NULL", f"DELETE FROM {table}",
                        f"TRUNCATE {table}", f"ALTER TABLE {table} DISABLE TRIGGER ALL", f"DROP TABLE {table}",
                    ):  # fmt: skip
                        await refused(sql, statement)
                month = await sql.fetchval("SELECT max(tableoid::regclass::text) FROM saga_event")
                for statement in (f"DELETE FROM {month}", f"SELECT FROM {month}", f"DROP TABLE {month}"):
                    await refused(sql, statement)
                await refused(sql, f"ALTER TABLE saga_event DETACH PARTITION {month}")
                await refused(sql, "INSERT INTO audit_checkpoint VALUES ('t', 0, 1, '')")
                await refused(sql, "SET session_replication_role = replica")
                await refused(sql, "CREATE TABLE mine (x int)")
        finally:
            await bench.stop()
            await bench.pool.close()
            bench.pool = owners


async def test_the_sealer_reads_records_and_adds_seals(database_url: str, tmp_path: Path) -> None:
    """It signs what is there, and can neither add a record nor take a seal away."""
    async with session(database_url) as owner, user(database_url, Role.SEALER) as url, session(url) as sealer:
        rig = AuditRig(owner, tmp_path)
        await rig.record(2)
        assert await replace(rig, sql=sealer).seal() > 0
        assert (await replace(rig, sql=sealer).verify()).findings == []
        for statement in (
            "DELETE FROM audit_checkpoint", "UPDATE audit_action SET body = ''", "DELETE FROM audit_edge",
            "INSERT INTO saga_event SELECT * FROM saga_event", "SELECT FROM saga", "SELECT FROM order_register",
        ):  # fmt: skip
            await refused(sealer, statement)


async def test_a_reader_verifies_and_writes_nothing(database_url: str, tmp_path: Path) -> None:
    """All tables can be read, and none written."""
    async with session(database_url) as owner, user(database_url, Role.READER) as url, session(url) as reader:
        rig = AuditRig(owner, tmp_path)
        await rig.record(2)
        await rig.seal()
        assert (await replace(rig, sql=reader).verify()).findings == []
        for table in METADATA.tables:
            await refused(reader, f"DELETE FROM {table}")
            await refused(reader, f"INSERT INTO {table} DEFAULT VALUES")


async def test_a_right_that_was_given_by_hand_is_taken_back(database_url: str) -> None:
    """A grant leaves a user with the rights of its role, and no others."""
    async with session(database_url) as owner, user(database_url, Role.READER) as url, session(url) as reader:
        name = await reader.fetchval("SELECT current_user")
        await owner.execute(f"GRANT DELETE ON saga_event TO {name}")
        for statement in await grants(owner, name, Role.READER):
            await owner.execute(statement)
        await refused(reader, "DELETE FROM saga_event")


async def test_whom_no_grant_holds_back_is_refused(database_url: str) -> None:
    """An owner, a superuser, or nobody."""
    async with session(database_url) as owner:
        with pytest.raises(CommandError) as refused_:
            await grants(owner, await owner.fetchval("SELECT current_user"), Role.SERVICES)
        assert refused_.value.exit_code is ExitCode.REFUSED
        with pytest.raises(CommandError) as unknown:
            await grants(owner, "nobody at all", Role.SERVICES)
        assert unknown.value.exit_code is ExitCode.NOT_FOUND


async def test_the_command_grants_what_it_prints(database_url: str) -> None:
    """Twice over: once as a dry run, which leaves everything as it is."""
    async with user(database_url, Role.SEALER) as url, session(url) as sql:
        name = await sql.fetchval("SELECT current_user")
        printed = await asyncio.to_thread(run, database_url, "grant", name, "--for", "reader", "--dry-run")
        await refused(sql, "SELECT FROM saga")
        told = json.loads(await asyncio.to_thread(run, database_url, "grant", name, "--for", "reader", "--json"))
        assert printed.splitlines() == [f"{each};" for each in told["statements"]]
        assert await sql.fetch("SELECT FROM saga") == []
        await refused(sql, "INSERT INTO audit_action VALUES (0, '', '')")
        assert f"{name} has the privileges of sealer" in await asyncio.to_thread(
            run, database_url, "grant", name, "--for", "sealer"
        )


def run(url: str, *arguments: str) -> str:
    """Run a command that goes well, and give what it prints."""
    out = io.StringIO()
    with patch.dict(os.environ, {"TRADESAGA_DATABASE_URL": url}), redirect_stdout(out):
        assert execute(arguments) == 0
    return out.getvalue()


async def refused(sql: Any, statement: str) -> None:
    """Expect that PostgreSQL refuses a statement by right, before any trigger."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"permission denied|must be owner"):
        await sql.execute(statement)
