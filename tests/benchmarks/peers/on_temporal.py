"""Temporal: its own server on the stage's PostgreSQL, 16 shards, two workers: its best of some twenty settings."""

import json
import os
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests.benchmarks.load import End, Kind, Load, Ran, Told
from tests.benchmarks.peers.environment import TEMPORAL, version_of
from tests.benchmarks.peers.processes import line, order, process, worker
from tests.benchmarks.stage import Stage
from tradesaga.infra.local_stack.ports import free_port

DATABASES = {"temporal": "postgresql/v12/temporal", "temporal_visibility": "postgresql/v12/visibility"}
STEPS = {"COMPLETED": 5, "ABORTED": 7}
"""Steps in a saga's history when each was recorded once, the refused one included."""
SHARDS = 16
DRIVER = "postgres12_pgx"
CONNECTIONS = 20
PARTITIONS = 4
PROCESSES = 2
POLLS = 5
PARTS = ("FRONTEND", "HISTORY", "MATCHING", "WORKER")
ENDS = """
SELECT workflow_id AS id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at
FROM current_executions WHERE workflow_id = ANY($1::text[]) AND status <> 1
"""
OPEN = "SELECT count(*) FROM current_executions WHERE workflow_id = ANY($1::text[]) AND status = 1"
LOOK_SECONDS = 0.5
PATIENCE = 120.0
"""Seconds after which sagas that have not ended count as lost."""


@dataclass(frozen=True)
class Temporal:
    """Temporal as tuned."""

    name: str = "Temporal"
    kinds: Sequence[Kind] = ("happy", "compensated")
    paced: bool = True
    settings: dict[str, str] = field(
        default_factory=lambda: {
            "server": _server_version(),
            "services": "frontend, history, matching, worker, in one process",
            "shards": str(SHARDS),
            "database": f"{DRIVER}, {CONNECTIONS} connections",
            "task queue": f"{PARTITIONS} partitions",
            "workers": f"{PROCESSES}, not sandboxed, {POLLS} polls of each kind, eager starts and steps",
            "version": version_of("temporalio"),
        }
    )

    def sagas(self, kind: Kind) -> int:
        """Give enough for some seconds; rounds make up for their small number."""
        return 120 if kind == "happy" else 80

    @contextmanager
    def running(self, stage: Stage) -> Generator["Started"]:
        """Start the server on databases made anew, then the workers."""
        environment = {**os.environ, **_environment(stage)}
        for database, schema in DATABASES.items():
            _make(stage, database, schema)
        address = f"127.0.0.1:{environment['FRONTEND_GRPC_PORT']}"
        with (
            process([str(TEMPORAL / "server"), "--allow-no-auth", "start"], environment) as server,
            ExitStack() as stack,
        ):
            workers: list[subprocess.Popen[str]] = []
            for _ in range(PROCESSES):
                workers.append(stack.enter_context(worker("temporal_worker", address, str(POLLS))))
                # One by one: the first makes the namespace.
                line(workers[-1])
            yield Started(stage, server, workers)


def _server_version() -> str:
    said = subprocess.run([TEMPORAL / "server", "--version"], check=True, capture_output=True, text=True).stdout
    return said.strip().removeprefix("temporal version ")


def _environment(stage: Stage) -> dict[str, str]:
    """Fill in the configuration that the server brings."""
    url = urlsplit(stage.database)
    ports = {f"{part}_{kind}_PORT": str(_port()) for part in PARTS for kind in ("GRPC", "MEMBERSHIP")}
    return {
        **ports,
        "FRONTEND_HTTP_PORT": str(_port()),
        "DB": DRIVER,
        "DB_PORT": str(url.port),
        "POSTGRES_SEEDS": url.hostname or "",
        "POSTGRES_USER": url.username or "",
        "POSTGRES_PWD": url.password or "",
        "SQL_MAX_CONNS": str(CONNECTIONS),
        "SQL_MAX_IDLE_CONNS": str(CONNECTIONS),
        "NUM_HISTORY_SHARDS": str(SHARDS),
        "DYNAMIC_CONFIG_FILE_PATH": str(_dynamic(stage.home)),
        "LOG_LEVEL": "error",
    }


def _port() -> int:
    """Choose a port below 2^15: on PostgreSQL Temporal keeps its members' ports in columns of two bytes."""
    return next(port for port in iter(free_port, 0) if port < 2**15)


def _dynamic(home: Path) -> Path:
    """Write down those settings that Temporal reads while it runs; JSON is YAML, too."""
    file = home / "temporal.yaml"
    names = ("matching.numTaskqueueReadPartitions", "matching.numTaskqueueWritePartitions")
    file.write_text(json.dumps({name: [{"value": PARTITIONS}] for name in names}))
    return file


def _make(stage: Stage, database: str, schema: str) -> None:
    stage.ask(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    stage.ask(f"CREATE DATABASE {database}")
    url = urlsplit(stage.database)
    environment = {**os.environ, "SQL_PASSWORD": url.password or ""}
    tool = [
        str(TEMPORAL / "sql"), "--plugin", DRIVER, "--ep", url.hostname or "", "-p", str(url.port),
        "-u", url.username or "", "--db", database,
    ]  # fmt: skip
    for action in (["setup-schema", "-v", "0.0"], ["update-schema", "--schema-name", schema]):
        subprocess.run([*tool, *action], env=environment, check=True, capture_output=True)


@dataclass(frozen=True)
class Started:
    """A server and workers that run."""

    stage: Stage
    server: psutil.Process
    workers: Sequence[subprocess.Popen[str]]

    @property
    def services(self) -> Sequence[psutil.Process]:
        """The server is its own; a worker's client starts the sagas: the load generator is counted with it."""
        return [self.server, *(psutil.Process(child.pid) for child in self.workers)]

    @property
    def servers(self) -> Sequence[psutil.Process]:
        """It uses PostgreSQL alone."""
        return (self.stage.postgres,)

    @property
    def url(self) -> str:
        """Give the URL of its database."""
        return f"{self.stage.database.rsplit('/', 1)[0]}/temporal"

    def written(self) -> float:
        """Give what PostgreSQL has logged."""
        return self.stage.wal_bytes()

    def run(self, load: Load) -> Ran:
        """Give each worker its share, shifted in time so that together they start evenly, and wait for the ends."""
        count = len(self.workers)
        for number, child in enumerate(self.workers):
            share = load.sagas // count + (number < load.sagas % count)
            delay = number / load.rate if load.rate else 0.0
            order(child, {"kind": load.kind, "sagas": share, "rate": load.rate / count, "delay": delay})
        starts: dict[str, float] = {}
        for child in self.workers:
            starts |= json.loads(line(child))
        until = time.monotonic() + PATIENCE
        while self.stage.ask(OPEN, list(starts), url=self.url)[0][0] and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
        return Ran(starts)

    def look(self, ran: Ran) -> Told:
        """Ask its tables when each saga ended, by the commit that wrote it, and its histories how."""
        at = {row["id"]: row["at"] for row in self.stage.ask(ENDS, list(ran.starts), url=self.url)}
        order(self.workers[0], {"look": list(at)})
        return Told(ran.starts, ends_of(at, json.loads(line(self.workers[0]))))


def ends_of(at: Mapping[str, float], histories: Mapping[str, Mapping[str, Any]]) -> dict[str, End]:
    """Judge each history: a step that was recorded again, or begun again, is one too many."""
    return {saga: _end(at[saga], history) for saga, history in histories.items()}


def _end(at: float, history: Mapping[str, Any]) -> End:
    state, steps = history["state"], history["steps"]
    return End(state, at, steps > STEPS.get(state, steps) or history["attempts"] > 1)
