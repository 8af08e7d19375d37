# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false
"""The saga on DBOS: one process with some threads; orders come as lines of JSON, an answer goes out for each.

Runs in the peers' environment: `python -m tests.benchmarks.peers.dbos_worker URL THREADS NUMBER`.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from dbos import DBOS, DBOSConfig, SetWorkflowID


class RefusedError(Exception):
    """The fourth step refuses."""


@DBOS.step()
def validate_order(kind: str) -> dict[str, str]:
    """Answer."""
    return {"qty": "100", "px": "101.25"}


@DBOS.step()
def reserve_funds(kind: str) -> dict[str, str]:
    """Answer."""
    return {"qty": "100", "px": "101.25"}


@DBOS.step()
def place_order(kind: str) -> dict[str, str]:
    """Answer."""
    return {"qty": "100", "px": "101.25"}


@DBOS.step()
def confirm_fill(kind: str) -> dict[str, str]:
    """Answer, or refuse."""
    if kind == "compensated":
        raise RefusedError(kind)
    return {"qty": "100", "px": "101.25"}


@DBOS.step()
def settle(kind: str) -> dict[str, str]:
    """Answer."""
    return {"qty": "100", "px": "101.25"}


@DBOS.step()
def take_back(name: str) -> dict[str, str]:
    """Answer."""
    return {"undone": name}


@DBOS.workflow()
def trade(kind: str) -> str:
    """Run the steps; after a refusal take back what was done, last first."""
    done: list[str] = []
    try:
        for step in (validate_order, reserve_funds, place_order, confirm_fill, settle):
            step(kind)
            done.append(step.__name__)
    except RefusedError:
        for name in reversed(done):
            take_back(name)
        return "ABORTED"
    return "COMPLETED"


def _run(saga: str, kind: str) -> None:
    with SetWorkflowID(saga):
        trade(kind)


def run(pool: ThreadPoolExecutor, order: dict[str, Any]) -> dict[str, float]:
    """Start sagas at a rate or, at 0, as fast as the threads take them; give the time at which each was due."""
    starts: dict[str, float] = {}
    running: list[Any] = []
    began, rate = time.time() + order["delay"], order["rate"]
    for index in range(order["sagas"]):
        due = began + index / rate if rate else time.time()
        time.sleep(max(0.0, due - time.time()))
        saga = str(uuid4())
        starts[saga] = due
        running.append(pool.submit(_run, saga, order["kind"]))
    for one in running:
        one.result()
    return starts


def main(url: str, threads: int, number: int) -> None:
    """Serve orders until the input ends."""
    DBOS(
        config=DBOSConfig(
            name="bench",
            system_database_url=url,
            sys_db_pool_size=2 * threads,
            executor_id=f"bench-{number}",
            application_version="1",
            log_level="ERROR",
        )
    )
    DBOS.launch()
    with ThreadPoolExecutor(threads) as pool:
        print("ready", flush=True)  # noqa: T201
        for line in sys.stdin:
            print(json.dumps(run(pool, json.loads(line))), flush=True)  # noqa: T201
    DBOS.destroy()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
