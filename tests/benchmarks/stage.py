"""The servers that all systems of a comparison run on, with the times of commits kept: they tell when a saga ends."""

import asyncio
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from tests.benchmarks.sink import Sink, collecting
from tradesaga.infra.local_stack.postgres import start_postgres, stop_postgres
from tradesaga.infra.local_stack.servers import start_servers, stop_servers
from tradesaga.infra.local_stack.state import ProcessId, StackState, change_state, read_state


@dataclass(frozen=True)
class Stage:
    """Servers that run, and what is needed to use and to measure them."""

    home: Path
    environment: dict[str, str]
    postgres: psutil.Process
    kafka: psutil.Process
    sink: Sink

    @property
    def database(self) -> str:
        """Give the database's URL."""
        return self.environment["TRADESAGA_DATABASE_URL"]

    @property
    def kafka_data(self) -> Path:
        """Name the folder of Kafka's segments."""
        return self.home / "kafka" / "data"

    def ask(self, sql: str, *arguments: Any, url: str = "") -> Sequence[asyncpg.Record]:
        """Ask the database."""
        return asyncio.run(_ask(url or self.database, sql, *arguments))

    def wal_bytes(self) -> float:
        """Give the position in PostgreSQL's log."""
        return float(self.ask("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn AS at")[0]["at"])


@contextmanager
def servers(*, statements: bool = False) -> Generator[Stage]:
    """Start the servers in a folder of their own; stop them and remove it at the end.

    With `statements` PostgreSQL counts the statements it runs, in `pg_stat_statements` of the database `postgres`.
    """
    with tempfile.TemporaryDirectory(prefix="tradesaga-bench-") as folder, collecting() as sink:
        home = Path(folder)
        home.chmod(0o711)
        try:
            _configure(home, statements=statements)
            state = start_servers(home)
            environment = {**os.environ, "TRADESAGA_KAFKA": state.kafka, "TRADESAGA_DATABASE_URL": state.database_url}
            yield Stage(home, environment, _process(state.postgres.process), _process(state.broker.process), sink)
        finally:
            stop_servers(home)


def _configure(home: Path, *, statements: bool) -> None:
    """Have PostgreSQL keep the time of each commit, and load what counts statements; both need a start."""
    postgres = start_postgres(home, read_state(home).postgres)
    asyncio.run(_execute(postgres.url, "ALTER SYSTEM SET track_commit_timestamp = on"))
    if statements:
        asyncio.run(_execute(postgres.url, "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'"))
        url = f"{postgres.url.rsplit('/', 1)[0]}/postgres"
        asyncio.run(_execute(url, "CREATE EXTENSION pg_stat_statements"))
    stopped = stop_postgres(postgres)

    def keep(state: StackState) -> StackState:
        return state.model_copy(update={"postgres": stopped})

    change_state(home, keep)


def _process(known: ProcessId | None) -> psutil.Process:
    if known is None:
        raise RuntimeError("a server is not running")
    return psutil.Process(known.pid)


async def _ask(url: str, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(sql, *arguments)
    finally:
        await connection.close()


async def _execute(url: str, sql: str) -> None:
    await _ask(url, sql)
