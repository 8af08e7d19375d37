"""Base backup and archived log of Debian's PostgreSQL 15, replayed to a moment; the runbook has the packaged 18."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters.standby import Pair, base_backup
from tests.conftest import Stack
from tests.recovery.ends import PLANS, check_ends, check_nothing_twice
from tests.recovery.stage import Stage, execute, open_stage
from tradesaga.consumers.recovery.rebuild import RebuildRequest
from tradesaga.infra.local_stack.postgres import data_folder, make_owned, server_account, start_postgres, stop_postgres
from tradesaga.infra.local_stack.state import PostgresState
from tradesaga.infra.postgres.database import session
from tradesaga.infra.postgres.migrate import migrate

pytestmark = [pytest.mark.stack, pytest.mark.full, pytest.mark.timeout(180)]

DEBIAN_15 = "/usr/lib/postgresql/15/bin"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that a server under another account may pass through."""
    made = Path(tempfile.mkdtemp(prefix="tradesaga-moment-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


async def archiving(home: Path, archive: Path) -> PostgresState:
    """Start a server that archives its log."""
    make_owned(archive, server_account())
    state = await asyncio.to_thread(start_postgres, home, PostgresState())
    await execute(state.url, "ALTER SYSTEM SET archive_mode = on")
    await execute(state.url, f"ALTER SYSTEM SET archive_command = 'cp %p {archive}/%f'")
    return await asyncio.to_thread(start_postgres, home, await asyncio.to_thread(stop_postgres, state))


async def archived(state: PostgresState, archive: Path) -> None:
    """Wait until all of the log so far is in the archive."""
    async with session(state.url) as sql:
        name = await sql.fetchval("SELECT pg_walfile_name(pg_switch_wal())")
    until = time.monotonic() + 60
    while not await asyncio.to_thread((archive / name).exists):
        assert time.monotonic() < until
        await asyncio.sleep(0.1)


def rewind(backup: Path, archive: Path, moment: str) -> None:
    """Have the backup be replayed to a moment when a server is started on it."""
    with (backup / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"restore_command = 'cp {archive}/%f %p'\nrecovery_target_time = '{moment}'\n")
        settings.write("recovery_target_action = 'promote'\n")
    (backup / "recovery.signal").touch()


async def knock(stage: Stage, first: int) -> None:
    """Start fourteen sagas of all ends."""
    for number in range(first, first + 14):
        await stage.knock(f"k{number}", **PLANS[number % len(PLANS)][0])


async def test_the_log_is_replayed_to_a_moment(
    stack: Stack, database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sagas in mid-flight at the backup, at the moment, and at the loss: all end, and no effect is made twice."""
    monkeypatch.setenv("TRADESAGA_PG_BIN", DEBIAN_15)
    home, archive, backup = folder / "home", folder / "archive", folder / "backup"
    home.mkdir(mode=0o711)
    state = await archiving(home, archive)
    try:
        await asyncio.to_thread(migrate, state.url)
        async with open_stage(stack, database_url, url=state.url) as stage:
            await stage.serve()
            moment = await live(stage, state, archive, backup)
            await asyncio.to_thread(Pair(state, state).lose_primary)
            await stage.stop()
            rewind(backup, archive, moment)
            state = await asyncio.to_thread(start_postgres, home, state.model_copy(update={"data": str(backup)}))
            await stage.use(state.url)
            assert (await stage.rebuild(RebuildRequest("restored", "tester"))).restored.total() > 0
            await stage.serve()
            await check_ends(stage)
            await check_nothing_twice(stage)
    finally:
        await asyncio.to_thread(stop_postgres, state)
        made = data_folder(home, server_account())
        if not made.is_relative_to(folder):
            await asyncio.to_thread(shutil.rmtree, made.parent)


async def live(stage: Stage, state: PostgresState, archive: Path, backup: Path) -> str:
    """Have a backup taken, a moment pass, and more happen after it; gives the moment."""
    await knock(stage, 0)
    await stage.reached(3)
    await asyncio.to_thread(base_backup, state, backup)
    await knock(stage, 14)
    await stage.reached(10)
    moment = str(await stage.bench.pool.fetchval("SELECT clock_timestamp()"))
    await knock(stage, 28)
    await stage.reached(18)
    await archived(state, archive)
    return moment
