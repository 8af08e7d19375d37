"""The product, with what can be switched off on or off, and the floor beside it: both on the stage's servers."""

import json
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.benchmarks.load import End, Kind, Load, Ran, Told
from tests.benchmarks.meter import log_bytes, own_cpu
from tests.benchmarks.stage import Stage
from tradesaga.infra.audit_log.note import write_new
from tradesaga.infra.local_stack.ports import free_port

SAMPLED = 0.01
ENDS_OF_PRODUCT = """
SELECT s.saga_id::text AS id, s.state, extract(epoch FROM pg_xact_commit_timestamp(s.xmin))::float8 AS at,
    (SELECT count(*) > count(DISTINCT event_type) FROM saga_event e WHERE e.saga_id = s.saga_id) AS repeated
FROM saga s WHERE s.saga_id = ANY($1::uuid[]) AND s.state IN ('COMPLETED', 'ABORTED', 'FAILED')
"""
ENDS_OF_FLOOR = """
SELECT s.saga_id::text AS id, 'COMPLETED' AS state,
    extract(epoch FROM pg_xact_commit_timestamp(s.xmin))::float8 AS at,
    (SELECT count(*) > count(DISTINCT etype) FROM floor_log l WHERE l.saga_id = s.saga_id) AS repeated
FROM floor_saga s WHERE s.saga_id = ANY($1::uuid[]) AND s.state = 3
"""


@dataclass(frozen=True)
class OnKafka:
    """One configuration; each switch is one that a user has."""

    name: str
    product: bool = True
    sealed: bool = False
    traced: bool = False
    served: bool = False
    paced: bool = False

    @property
    def kinds(self) -> Sequence[Kind]:
        """The floor takes nothing back; of the variants only the rate of happy sagas is of interest."""
        return ("happy", "compensated") if self.product and self.paced else ("happy",)

    @property
    def settings(self) -> dict[str, str]:
        """Name the switches."""
        if not self.product:
            return {"processes": "steps, log", "aiokafka": version("aiokafka"), "asyncpg": version("asyncpg")}
        return {
            "processes": "steps, log, sealer" if self.sealed else "steps, log",
            "tracing": f"sampled at {SAMPLED:.0%}" if self.traced else "off",
            "metrics": "counted and served" if self.served else "counted, not served",
            "fencing": "on",
            "version": version("tradesaga"),
        }

    def sagas(self, kind: Kind) -> int:
        """Give enough for some seconds."""
        return 10_000 if kind == "happy" else 5_000

    @contextmanager
    def running(self, stage: Stage) -> Generator["Started"]:
        """Start the services; the tables of the floor are made anew, those of the product grow from run to run."""
        command = [sys.executable, "-m", f"tests.benchmarks.{'product' if self.product else 'floor'}"]
        environment = self._environment(stage)
        subprocess.run([*command, "init"], env=environment, check=True)
        with ExitStack() as stack:
            roles = ("steps", "log", "sealer") if self.sealed else ("steps", "log")
            services = [stack.enter_context(self._service(command, role, environment)) for role in roles]
            yield Started(self, stage, services, command, environment)

    def _environment(self, stage: Stage) -> dict[str, str]:
        key = stage.home / "audit.key"
        if self.sealed and not key.exists():
            write_new(key, "bench")
        return {
            **stage.environment,
            "TRADESAGA_APP": "tests.benchmarks.noop",
            "TRADESAGA_HOME": str(stage.home),
            "TRADESAGA_TRACE_RATIO": str(SAMPLED if self.traced else 0),
            "OTEL_EXPORTER_OTLP_ENDPOINT": stage.sink.address,
        }

    @contextmanager
    def _service(self, command: list[str], role: str, environment: dict[str, str]) -> Generator[psutil.Process]:
        own = {**environment, "TRADESAGA_METRICS_PORT": str(free_port() if self.served else 0)}
        process = subprocess.Popen([*command, role], env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield psutil.Process(process.pid)
            if process.poll() is not None:
                raise RuntimeError(f"{self.name}: {role} has ended by itself")
        finally:
            process.terminate()
            process.wait(30)


@dataclass(frozen=True)
class Started:
    """Services that run."""

    system: OnKafka
    stage: Stage
    services: Sequence[psutil.Process]
    command: list[str]
    environment: dict[str, str]

    @property
    def servers(self) -> Sequence[psutil.Process]:
        """It uses both servers."""
        return (self.stage.postgres, self.stage.kafka)

    def written(self) -> float:
        """Give what PostgreSQL has logged and what Kafka keeps."""
        return self.stage.wal_bytes() + log_bytes(self.stage.kafka_data)

    def run(self, load: Load) -> Ran:
        """Run the load in a process of its own."""
        file = self.stage.home / "starts.json"
        file.unlink(missing_ok=True)
        kind = [load.kind] if self.system.product else []
        argv = [*self.command, "load", str(load.sagas), str(load.rate), *kind, str(file)]
        before = own_cpu()
        # A load whose sagas have not ended in time fails; the records tell which they are.
        subprocess.run(argv, env=self.environment, check=False, stdout=subprocess.DEVNULL)
        return Ran(_read(file), own_cpu() - before)

    def look(self, ran: Ran) -> Told:
        """Ask the database; an end is the commit that wrote it."""
        rows = self.stage.ask(ENDS_OF_PRODUCT if self.system.product else ENDS_OF_FLOOR, list(ran.starts))
        return Told(ran.starts, {row["id"]: End(row["state"], row["at"], row["repeated"]) for row in rows})


def _read(file: Path) -> dict[str, float]:
    if not file.exists():
        raise RuntimeError("the load has started nothing; run its command by hand to see why")
    return json.loads(file.read_text())


FLOOR = OnKafka("baseline", product=False, paced=True)
PRODUCT = OnKafka("tradesaga", sealed=True, traced=True, served=True, paced=True)
VARIANTS = (
    OnKafka("tradesaga, no sealer", traced=True, served=True),
    OnKafka("tradesaga, no tracing", sealed=True, served=True),
    OnKafka("tradesaga, all off"),
)
