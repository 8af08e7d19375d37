"""The real trade on DBOS: two processes of four threads behind one port, as tuned for sagas that do nothing."""

import os
import socket
import subprocess
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.benchmarks.peers.desk_ledger import PaperVenue, credentials, find_differences, make_ledger, paper_venue
from tests.benchmarks.peers.environment import PYTHON, version_of
from tests.benchmarks.peers.on_dbos import PROCESSES, THREADS
from tests.benchmarks.peers.processes import line
from tests.benchmarks.stage import Stage
from tests.benchmarks.trades.deployment import Deployed
from tests.benchmarks.trades.records import Records

STEPS = 6
_STORED = "SELECT workflow_uuid AS id FROM dbos.workflow_status WHERE workflow_uuid = ANY($1::text[])"
_ENDED = """
SELECT count(*) AS ended FROM dbos.workflow_status
WHERE workflow_uuid = ANY($1::text[]) AND status NOT IN ('PENDING', 'ENQUEUED')
"""
_ENDS = f"""
SELECT w.workflow_uuid AS id, extract(epoch FROM pg_xact_commit_timestamp(w.xmin))::float8 AS at,
    CASE WHEN w.status <> 'SUCCESS' THEN 'FAILED' WHEN r.status = 'SETTLED' THEN 'COMPLETED' ELSE 'ABORTED' END
        AS state,
    (SELECT count(*) > {STEPS} FROM dbos.operation_outputs o WHERE o.workflow_uuid = w.workflow_uuid) AS repeated
FROM dbos.workflow_status w LEFT JOIN order_register r ON r.saga_id = w.workflow_uuid::uuid
WHERE w.workflow_uuid = ANY($1::text[]) AND w.status NOT IN ('PENDING', 'ENQUEUED')
"""


@dataclass(frozen=True)
class TradesOnDbos:
    """DBOS with the trade."""

    name: str = "trades, DBOS"
    settings: dict[str, str] = field(
        default_factory=lambda: {
            "processes": f"{PROCESSES}, synchronous, {THREADS} threads each, behind one port (hypercorn)",
            "steps": "those that write commit with their own record, READ COMMITTED",
            "fill": "read from the answer to the order",
            "version": version_of("dbos"),
        }
    )

    @contextmanager
    def running(self, stage: Stage) -> Generator[Deployed]:
        """Run the venue and the workers, on the product's ledger in a database of its own."""
        with paper_venue(stage.home / "dbos-venue") as venue, ExitStack() as stack, socket.socket() as listener:
            url = make_ledger(stage, "desk_dbos", venue)
            listener.bind(("127.0.0.1", 0))
            listener.listen(2048)
            listener.set_inheritable(True)
            workers = list[psutil.Process]()
            for number in range(PROCESSES):
                # One by one: the first makes the tables.
                arguments = (url, venue.url, *credentials(), str(THREADS), str(number), str(listener.fileno()))
                workers.append(stack.enter_context(_worker(arguments, listener.fileno(), stage.home / "dbos.log")))
            gateway = f"http://127.0.0.1:{listener.getsockname()[1]}"
            records = Records(url, _STORED, _ENDS, _ENDED)
            processes = _processes(stage, venue, workers)
            yield Deployed(self.name, stage, processes, gateway, records, lambda: find_differences(stage, url, venue))


@contextmanager
def _worker(arguments: Sequence[str], descriptor: int, log: Path) -> Generator[psutil.Process]:
    argv = [str(PYTHON), "-m", "tests.benchmarks.peers.dbos_desk", *arguments]
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            argv, env=os.environ, stdout=subprocess.PIPE, stderr=errors, text=True, pass_fds=(descriptor,)
        ) as child,
    ):
        try:
            line(child)
            yield psutil.Process(child.pid)
        finally:
            child.terminate()


def _processes(stage: Stage, venue: PaperVenue, workers: Sequence[psutil.Process]) -> dict[str, psutil.Process]:
    named = {f"worker {number + 1}": process for number, process in enumerate(workers)}
    return {"venue": venue.process, **named, "PostgreSQL": stage.postgres}
