"""Both servers, each with a way in over the network; PostgreSQL counts statements, by the service that sends them."""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import psutil

from tests.benchmarks.scale_out.network import Network
from tests.benchmarks.sink import collecting
from tests.benchmarks.stage import Stage
from tests.clusters.brokers import listeners
from tradesaga.infra.local_stack.kafka import start_kafka, stop_kafka
from tradesaga.infra.local_stack.ports import LOOPBACK, free_port
from tradesaga.infra.local_stack.postgres import start_postgres, stop_postgres
from tradesaga.infra.local_stack.state import KafkaState, PostgresState, ProcessId

_TRIPS: Final = 15
ROLES: Final = ("steps", "log", "sealer", "bystander")
"""Each kind of service has an account of its own, so that its statements can be told from the others'."""
_SETTINGS: Final = (
    "ALTER SYSTEM SET track_commit_timestamp = on",
    "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'",
    *(f"CREATE ROLE scale_{role} LOGIN SUPERUSER PASSWORD 'scale'" for role in ROLES),
)


@dataclass(frozen=True)
class Rig:
    """Servers that run, and the network before them."""

    stage: Stage
    network: Network

    def environment(self, role: str, *, networked: bool) -> dict[str, str]:
        """Give a service its way to both servers: through the network, or round it."""
        port = self.network.postgres.port if networked else self.network.postgres.target
        kafka = f"{LOOPBACK}:{self.network.kafka.port}" if networked else self.stage.environment["TRADESAGA_KAFKA"]
        return {
            **self.stage.environment,
            "TRADESAGA_KAFKA": kafka,
            "TRADESAGA_DATABASE_URL": f"postgresql://scale_{role}:scale@{LOOPBACK}:{port}/tradesaga",
        }

    def round_trip_ms(self) -> float:
        """Measure what one statement takes over the network: timers are coarse, and the proxy needs its time too."""
        return 1000 * asyncio.run(_round_trip(self.environment("steps", networked=True)["TRADESAGA_DATABASE_URL"]))


@contextmanager
def servers() -> Generator[Rig]:
    """Start network and servers in a folder of their own; stop them and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="tradesaga-scale-") as folder, collecting() as sink, Network() as network:
        home = Path(folder)
        home.chmod(0o711)
        kafka, postgres = KafkaState(), PostgresState()
        try:
            postgres = _start_postgres(home, network)
            kafka = _start_kafka(home, network)
            environment = {
                **os.environ,
                "TRADESAGA_KAFKA": kafka.bootstrap,
                "TRADESAGA_DATABASE_URL": postgres.url,
                "TRADESAGA_HOME": str(home),
                "TRADESAGA_APP": "tests.benchmarks.noop",
            }
            yield Rig(Stage(home, environment, _process(postgres.process), _process(kafka.process), sink), network)
        finally:
            stop_kafka(kafka)
            stop_postgres(postgres)


def _start_postgres(home: Path, network: Network) -> PostgresState:
    postgres = start_postgres(home, PostgresState())
    asyncio.run(_execute(postgres.url, *_SETTINGS))
    postgres = start_postgres(home, stop_postgres(postgres))
    asyncio.run(_execute(postgres.url, "CREATE EXTENSION pg_stat_statements"))
    network.postgres.target = urlsplit(postgres.url).port or 0
    return postgres


def _start_kafka(home: Path, network: Network) -> KafkaState:
    """Start a broker that tells those who come over the network to come back over it."""
    state, inside = KafkaState(port=free_port(), controller_port=free_port()), free_port()
    network.kafka.target = inside
    doors = {"NETWORK": (inside, network.kafka.port)}
    return start_kafka(home, state, listeners(state.port, state.controller_port, doors))


def _process(known: ProcessId | None) -> psutil.Process:
    if known is None:
        raise RuntimeError("a server is not running")
    return psutil.Process(known.pid)


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _round_trip(url: str) -> float:
    connection = await asyncpg.connect(url)
    try:
        taken: list[float] = []
        for _ in range(_TRIPS):
            began = time.perf_counter()
            await connection.fetchval("SELECT 1")
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)
    finally:
        await connection.close()
