"""DBOS on the stage's PostgreSQL: two processes of four threads each, which was its best of some nineteen settings."""

import base64
import json
import pickle
import subprocess
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import asyncpg
import psutil

from tests.benchmarks.load import End, Kind, Load, Ran, Told
from tests.benchmarks.peers.environment import version_of
from tests.benchmarks.peers.processes import line, order, worker
from tests.benchmarks.stage import Stage

PROCESSES = 2
THREADS = 4
STEPS = {"COMPLETED": 5, "ABORTED": 7}
"""Steps that a saga has recorded when each of them was recorded once, the refused one included."""
ENDS = """
SELECT w.workflow_uuid AS id, w.status, a.output,
    extract(epoch FROM pg_xact_commit_timestamp(w.xmin))::float8 AS at,
    (SELECT count(*) FROM dbos.operation_outputs o WHERE o.workflow_uuid = w.workflow_uuid) AS steps
FROM dbos.workflow_status w LEFT JOIN dbos.workflow_output a USING (workflow_uuid)
WHERE w.workflow_uuid = ANY($1::text[]) AND w.status NOT IN ('PENDING', 'ENQUEUED')
"""


@dataclass(frozen=True)
class Dbos:
    """DBOS as tuned."""

    name: str = "DBOS"
    kinds: Sequence[Kind] = ("happy", "compensated")
    paced: bool = True
    settings: dict[str, str] = field(
        default_factory=lambda: {
            "processes": f"{PROCESSES}, synchronous, {THREADS} threads each",
            "pool": f"{2 * THREADS} connections each",
            "version": version_of("dbos"),
        }
    )

    def sagas(self, kind: Kind) -> int:
        """Give enough for some seconds."""
        return 500

    @contextmanager
    def running(self, stage: Stage) -> Generator["Started"]:
        """Start the workers on a database of their own."""
        url = f"{stage.database.rsplit('/', 1)[0]}/dbos"
        with ExitStack() as stack:
            workers: list[subprocess.Popen[str]] = []
            for number in range(PROCESSES):
                workers.append(stack.enter_context(worker("dbos_worker", url, str(THREADS), str(number))))
                # One by one: the first makes the tables.
                line(workers[-1])
            yield Started(stage, url, workers)


@dataclass(frozen=True)
class Started:
    """Workers that wait for orders."""

    stage: Stage
    url: str
    workers: Sequence[subprocess.Popen[str]]

    @property
    def services(self) -> Sequence[psutil.Process]:
        """The library runs in the program that starts the sagas: its load generator is counted with it."""
        return [psutil.Process(child.pid) for child in self.workers]

    @property
    def servers(self) -> Sequence[psutil.Process]:
        """It uses PostgreSQL alone."""
        return (self.stage.postgres,)

    def written(self) -> float:
        """Give what PostgreSQL has logged."""
        return self.stage.wal_bytes()

    def run(self, load: Load) -> Ran:
        """Give each worker its share, shifted in time so that together they start evenly."""
        count = len(self.workers)
        for number, child in enumerate(self.workers):
            share = load.sagas // count + (number < load.sagas % count)
            delay = number / load.rate if load.rate else 0.0
            order(child, {"kind": load.kind, "sagas": share, "rate": load.rate / count, "delay": delay})
        starts: dict[str, float] = {}
        for child in self.workers:
            starts |= json.loads(line(child))
        return Ran(starts)

    def look(self, ran: Ran) -> Told:
        """Ask its tables; an end is the commit that wrote it."""
        rows = self.stage.ask(ENDS, list(ran.starts), url=self.url)
        return Told(ran.starts, {row["id"]: _end(row) for row in rows})


def _end(row: asyncpg.Record) -> End:
    state = _result(row["output"]) if row["status"] == "SUCCESS" else "FAILED"
    return End(state, row["at"], row["steps"] > STEPS.get(state, row["steps"]))


def _result(output: str) -> str:
    """Read a workflow's answer as DBOS stores it."""
    return pickle.loads(base64.b64decode(output))
