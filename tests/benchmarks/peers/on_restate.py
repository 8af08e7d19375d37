"""Restate: its own server beside the stage's, two partitions and two workers, which was its best of five settings."""

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil

from tests.benchmarks.load import End, Kind, Load, Ran, Told
from tests.benchmarks.meter import own_cpu
from tests.benchmarks.peers.environment import PYTHON, RESTATE, version_of
from tests.benchmarks.peers.processes import process
from tests.benchmarks.stage import Stage
from tradesaga.infra.local_stack.ports import free_port

PARTITIONS = 2
WORKERS = 2
IN_FLIGHT = 1000
"""Sagas under way at once, flat out."""
STEPS = {"COMPLETED": 5, "ABORTED": 7}
"""Steps in the journal of a saga when each was recorded once, the refused one included."""
ENDED = "SELECT id FROM sys_invocation WHERE status = 'completed' AND completion_result = 'success'"
JOURNAL = "SELECT id, count(*) AS steps FROM sys_journal WHERE entry_type = 'Command: Run' GROUP BY id"
READY_SECONDS = 60.0


@dataclass(frozen=True)
class Restate:
    """Restate as tuned."""

    name: str = "Restate"
    kinds: Sequence[Kind] = ("happy", "compensated")
    paced: bool = True
    settings: dict[str, str] = field(
        default_factory=lambda: {
            "server": _server_version(),
            "partitions": str(PARTITIONS),
            "workers": f"{WORKERS}, hypercorn {version_of('hypercorn')}",
            "in flight, flat out": str(IN_FLIGHT),
            "version": version_of("restate-sdk"),
        }
    )

    def sagas(self, kind: Kind) -> int:
        """Give enough for some seconds."""
        return 2000

    @contextmanager
    def running(self, stage: Stage) -> Generator["Started"]:
        """Start server and workers in a fresh folder and register the saga."""
        ports = [free_port() for _ in range(4)]
        ingress, admin, node, service = (f"127.0.0.1:{port}" for port in ports)
        environment = {
            **os.environ,
            "RESTATE_INGRESS__BIND_ADDRESS": ingress,
            "RESTATE_ADMIN__BIND_ADDRESS": admin,
            "RESTATE_BIND_ADDRESS": node,
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_DEFAULT_NUM_PARTITIONS": str(PARTITIONS),
            "RESTATE_LOG_FILTER": "error",
            "DO_NOT_TRACK": "1",
        }
        serving = [str(PYTHON), "-m", "hypercorn", "tests.benchmarks.peers.restate_worker:application"]
        with tempfile.TemporaryDirectory(dir=stage.home) as folder:
            server = [str(_server()), "--base-dir", folder, "--node-name", "bench"]
            with (
                process(server, environment) as one,
                process([*serving, "-b", service, "-w", str(WORKERS)], environment) as two,
            ):
                _register(f"http://{admin}", f"http://{service}")
                yield Started(stage, f"http://{ingress}/Trade/run", f"http://{admin}/query", one, two)


def _server() -> Path:
    return next(RESTATE.glob("restate-server-*/bin/restate-server"))


def _server_version() -> str:
    return subprocess.run([_server(), "--version"], check=True, capture_output=True, text=True).stdout.strip()


def _register(admin: str, service: str) -> None:
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            httpx.post(f"{admin}/deployments", json={"uri": service}, timeout=10).raise_for_status()
        except httpx.HTTPError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
        else:
            return


@dataclass(frozen=True)
class Started:
    """A server and workers that run."""

    stage: Stage
    ingress: str
    query: str
    server: psutil.Process
    worker: psutil.Process

    @property
    def services(self) -> Sequence[psutil.Process]:
        """Both are the system's own."""
        return (self.server, self.worker)

    @property
    def servers(self) -> Sequence[psutil.Process]:
        """It uses none of the stage's."""
        return ()

    def written(self) -> float:
        """Give what its server has handed to the file system."""
        return float(self.server.io_counters().write_bytes)

    def run(self, load: Load) -> Ran:
        """Start the sagas over HTTP and take their answers."""
        before = own_cpu()
        starts, answers = asyncio.run(_start(self.ingress, load))
        return Ran(starts, own_cpu() - before, answers)

    def look(self, ran: Ran) -> Told:
        """Ask its tables: an end is an answer that they have too, the number of steps is the journal's."""
        ended = {row["id"] for row in self._rows(ENDED)}
        steps = {row["id"]: row["steps"] for row in self._rows(JOURNAL)}
        ends = {
            saga: End(state, at, steps[saga] > STEPS[state])
            for saga, (state, at) in ran.answers.items()
            if saga in ended
        }
        return Told(ran.starts, ends)

    def _rows(self, sql: str) -> list[dict[str, Any]]:
        answer = httpx.post(self.query, json={"query": sql}, headers={"accept": "application/json"}, timeout=60)
        return answer.raise_for_status().json()["rows"]


async def _start(url: str, load: Load) -> tuple[dict[str, float], dict[str, tuple[str, float]]]:
    starts: dict[str, float] = {}
    answers: dict[str, tuple[str, float]] = {}
    room = asyncio.Semaphore(IN_FLIGHT)

    async def one(client: aiohttp.ClientSession, index: int, due: float) -> None:
        async with room, client.post(url, json=load.kind) as answer:
            state = await answer.json()
            # A saga that never had an id is one that was lost.
            saga = answer.headers.get("x-restate-id", f"unanswered {index}")
            starts[saga], answers[saga] = due, (state, time.time())

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as client, asyncio.TaskGroup() as group:
        began = time.time()
        for index in range(load.sagas):
            due = began + index / load.rate if load.rate else began
            if due > time.time():
                await asyncio.sleep(due - time.time())
            group.create_task(one(client, index, due))
    return starts, answers
