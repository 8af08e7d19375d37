"""Real Kafka and PostgreSQL for tests: started once per run, shared by all workers, stopped at the end."""

import asyncio
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import asyncpg
import psutil
import pytest
import structlog

from tradesaga.infra.local_stack import postgres
from tradesaga.infra.local_stack.servers import start_servers, stop_servers
from tradesaga.infra.local_stack.state import lock
from tradesaga.infra.postgres.migrate import migrate

RUN_FOLDER = "TRADESAGA_TEST_RUN"
PREFIX = "tradesaga-tests-"
UNSYNCED = {"fsync": "off", "full_page_writes": "off"}
"""The tests' own PostgreSQL does not wait for its disk: each test makes and drops a database of its own.

A server that is killed loses nothing by it, only a machine that stops. Fault runs and demos wait for the disk.
"""


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the servers of this test run are, and the name of the migrated database that others are copied from."""

    kafka: str
    database_url: str
    template: str


def pytest_configure(config: pytest.Config) -> None:
    """Choose the run's folder once, in the process that starts the workers; they inherit its name."""
    if RUN_FOLDER not in os.environ:
        _sweep()
        folder = Path(tempfile.gettempdir()) / f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
        os.environ[RUN_FOLDER] = str(folder)
        config.stash[_owned] = folder


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what this run started, once all its workers have ended."""
    folder = config.stash.get(_owned, None)
    if folder is not None:
        _remove(folder)
        del os.environ[RUN_FOLDER]


_owned = pytest.StashKey[Path]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run first what may take longest, so that no worker has it left at the end while the others are idle.

    A file that needs long says so by its time limits; then come those on real servers, and those of many tests.
    """
    limit = float(config.getini("timeout"))
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)

    def urgency(tests: list[pytest.Item]) -> tuple[bool, float, bool, int]:
        limits = [float(mark.args[0]) for item in tests if (mark := item.get_closest_marker("timeout"))]
        return _marked(tests, "alone"), max([limit, *limits]), _marked(tests, "stack"), len(tests)

    ordered = sorted(files.values(), key=urgency, reverse=True)
    items[:] = [item for tests in ordered for item in tests]
    if "PYTEST_XDIST_WORKER" in os.environ and _marked(items, "alone"):
        config.stash[_turn] = Turn(Path(os.environ[RUN_FOLDER]))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Run a test marked `alone` while no other worker runs one; the wait does not count against its time limit."""
    turn = item.config.stash.get(_turn, None)
    if turn is None:
        return (yield)
    alone = _marked([item], "alone")
    turn.take(alone=alone)
    try:
        return (yield)
    finally:
        if not (alone and nextitem and _marked([nextitem], "alone")):
            turn.give_back()


class Turn:
    """Two lock files that the workers of a run share: tests run side by side, or one has the machine to itself."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o711, exist_ok=True)
        self._queue, self._running = ((folder / name).open("w") for name in ("queue.lock", "running.lock"))
        self._alone = False

    def take(self, *, alone: bool) -> None:
        """Wait until the test may run. One that waits to be alone lets no other begin before it."""
        if self._alone:
            return
        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        fcntl.flock(self._queue, how)
        fcntl.flock(self._running, how)
        self._alone = alone
        if not alone:
            fcntl.flock(self._queue, fcntl.LOCK_UN)

    def give_back(self) -> None:
        """Let others begin."""
        self._alone = False
        fcntl.flock(self._running, fcntl.LOCK_UN)
        fcntl.flock(self._queue, fcntl.LOCK_UN)


_turn = pytest.StashKey[Turn]()


def _marked(items: Sequence[pytest.Item], name: str) -> bool:
    return any(item.get_closest_marker(name) for item in items)


@pytest.fixture(autouse=True)
def default_logs() -> Iterator[None]:
    """Undo what a command that ran in this process has set up for logging: a level that hides what others look for."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def stack() -> Stack:
    """Give the run's servers, starting them at the first request; given ones are taken from the environment."""
    folder = Path(os.environ[RUN_FOLDER])
    folder.mkdir(mode=0o711, exist_ok=True)
    os.environ.setdefault("TRADESAGA_KAFKA_HEAP", "256m")
    kafka, url = os.environ.get("TRADESAGA_KAFKA"), os.environ.get("TRADESAGA_DATABASE_URL")
    if not (kafka and url):
        with patch.dict(postgres.SETTINGS, UNSYNCED):
            state = start_servers(folder)
        kafka, url = state.kafka, state.database_url
    template = f"template_{folder.name.rsplit('-', 1)[1]}"
    with lock(folder):
        marker = folder / "template"
        if not marker.exists():
            _make_template(url, template)
            marker.write_text(url)
    return Stack(kafka, url, template)


@pytest.fixture
def kafka(stack: Stack) -> str:
    """Give the broker's bootstrap address; topics are the test's own affair, so name them uniquely."""
    return stack.kafka


@pytest.fixture
def database_url(stack: Stack) -> Iterator[str]:
    """Give the URL of a fresh, migrated database of this test alone."""
    with fresh_database(stack) as url:
        yield url


@pytest.fixture(scope="module")
def module_database_url(stack: Stack) -> Iterator[str]:
    """Give the URL of a fresh, migrated database that the tests of one module share."""
    with fresh_database(stack) as url:
        yield url


@contextmanager
def fresh_database(stack: Stack) -> Generator[str]:
    """Make a migrated database, for a test that needs more than one, and drop it afterwards."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    asyncio.run(_execute(stack.database_url, f"CREATE DATABASE {name} TEMPLATE {stack.template}"))
    try:
        yield _named(stack.database_url, name)
    finally:
        asyncio.run(_execute(stack.database_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


def _make_template(url: str, name: str) -> None:
    """Create and migrate the database that every test's own is copied from."""
    asyncio.run(_execute(url, f"CREATE DATABASE {name}"))
    migrate(_named(url, name))


def _named(url: str, database: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{database}"


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _remove(folder: Path) -> None:
    """Stop the folder's servers or, when they were given, drop the template; then remove the folder."""
    if not folder.exists():
        return
    state = stop_servers(folder)
    if state.postgres.data and not Path(state.postgres.data).is_relative_to(folder):
        shutil.rmtree(Path(state.postgres.data).parent)
    marker = folder / "template"
    if os.environ.get("TRADESAGA_DATABASE_URL") and marker.exists():
        name = f"template_{folder.name.rsplit('-', 1)[1]}"
        asyncio.run(_execute(marker.read_text(), f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
    shutil.rmtree(folder)


def _sweep() -> None:
    """Stop the servers of earlier runs that were killed before they could do so themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        owner = int(folder.name.removeprefix(PREFIX).split("-")[0])
        if not psutil.pid_exists(owner):
            with suppress(FileNotFoundError):  # another run that starts now may be removing it too
                _remove(folder)
