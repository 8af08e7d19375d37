"""A restart while very many sagas are open: how long until the services are ready, and until the first saga ends."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import psutil

from tests.benchmarks.meter import memory_of
from tests.benchmarks.scale import load, population
from tests.benchmarks.scale.plans import due_statements, read_plan
from tests.benchmarks.scale.processes import WAITING, environment_of, running, start, stop
from tests.benchmarks.scale.waiting import ASKED_AFTER, steps, waiting
from tests.benchmarks.stage import Stage

Say = Callable[[str], None]
LIMIT = 100.0
"""Seconds after which a restart is given up, and told so."""
_FIRST: Final = """
SELECT extract(epoch FROM min(pg_xact_commit_timestamp(xmin)))::float8 AS at FROM saga
WHERE saga_id = ANY($1::uuid[]) AND state = 'COMPLETED'
"""
_OVERDUE: Final = "UPDATE step_execution SET due = due - $1::interval WHERE due IS NOT NULL"
_LANES: Final = """SELECT array_agg(id ORDER BY id) AS ids FROM lane WHERE "group" = $1"""
_ASKED: Final = """
SELECT count(*) AS asked FROM step_execution WHERE status = 3 AND due > clock_timestamp() AND saga_id = ANY($1::uuid[])
"""


def measure(stage: Stage, sizes: Sequence[int], beside: int, say: Say) -> dict[str, Any]:
    """Open more and more sagas behind the services' backs; start these, with work waiting, each time anew.

    After the most, once more with every waiting step overdue, as after an outage longer than its time.
    """
    load.prepare(stage)
    with running(stage, WAITING, load.APP):
        warm, _ = load.begin(stage, 100, reported=True)
        (real,), _ = load.begin(stage, 1)
        load.wait(stage, load.ENDED, warm, 60)
        load.wait(stage, load.IN_FLIGHT, [real], 60)
    rows: list[dict[str, Any]] = [_restart(stage, 0, [], beside, say)]
    there: list[str] = []
    for size in sizes:
        loaded = population.load(stage, waiting.name, real, size - len(there), say)
        there += loaded.sagas
        statements = _explain(stage)
        rows.append({**_restart(stage, size, there, beside, say), "load_seconds": loaded.seconds})
        rows[-1]["statements"] = statements
    stage.ask(_OVERDUE, 2 * ASKED_AFTER)
    stage.ask("VACUUM (ANALYZE) step_execution")
    statements = _explain(stage)
    rows.append({**_restart(stage, len(there), there, beside, say), "overdue": True, "statements": statements})
    return {"part": "restart", "rows": rows}


def _restart(stage: Stage, size: int, there: list[str], beside: int, say: Say) -> dict[str, Any]:
    """Start the services with reports for a hundred of the sagas on the topic already, then have others pass by."""
    waited = there[-100:] if there else load.begin(stage, 100, reported=True)[0]
    del there[-100:]
    if size:
        load.report(stage, waited)
    environment = environment_of(stage, load.APP)
    began = time.time()
    services = [start(stage, command, environment) for command in WAITING]
    figures: dict[str, Any] = {"open": size}
    try:
        figures["ready_seconds"] = {service.name: service.await_ready() for service in services}
        figures["first_end_seconds"] = _first_end(stage, waited) - began
        passing, since = load.begin(stage, beside, reported=True)
        load.wait(stage, load.ENDED, passing, LIMIT)
        figures["beside_a_second"] = beside / (stage.ask(load.LAST_ENDED, passing)[0]["at"] - since)
        figures["asked"] = stage.ask(_ASKED, there[:10_000])[0]["asked"]
    except TimeoutError as error:
        figures["given_up"] = str(error)
    finally:
        own = {service.name: memory_of([psutil.Process(service.process.pid)]) for service in services}
        stop(services)
    say(f"{size:,} open: {json.dumps(figures)}")
    return {**figures, "memory_mb": own}


def _first_end(stage: Stage, sagas: Sequence[str]) -> float:
    until = time.monotonic() + LIMIT
    while (at := stage.ask(_FIRST, sagas)[0]["at"]) is None:
        if time.monotonic() > until:
            raise TimeoutError(f"no saga has ended within {LIMIT:.0f} seconds")
        time.sleep(0.02)
    return at


def _explain(stage: Stage) -> dict[str, dict[str, float]]:
    """Run the statements that find what is due, and give what each has taken."""
    participant, log = (stage.ask(_LANES, group)[0]["ids"] for group in (steps.group, f"{waiting.name}-log"))
    return {
        name: read_plan(stage.ask(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *arguments)[0][0])
        for name, (sql, arguments) in due_statements(participant, log, list(steps.bindings)).items()
    }
