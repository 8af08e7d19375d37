"""One load on the whole product (sealer, tracing at 1 %, metrics served), and what came of it and what it cost."""

import os
from typing import Any, NamedTuple

from tests.benchmarks.load import Load, Outcome, Told, judge, percentile
from tests.benchmarks.meter import Cost, cpu_of, memory_of
from tests.benchmarks.system import Running


class Measured(NamedTuple):
    """A load's ends, and figures for the report."""

    told: Told
    outcome: Outcome
    figures: dict[str, Any]


def run(running: Running, load: Load) -> Measured:
    """Run a load until all its sagas have ended. Raises `RuntimeError` when one was lost, failed or done twice."""
    before = _cost(running)
    ran = running.run(load)
    cost = _cost(running).since(before, load.sagas)
    memory = memory_of(running.services)
    told = running.look(ran)
    outcome = judge(told)
    if not outcome.counts.as_wanted(load):
        raise RuntimeError(f"{load.name}: of {load.sagas} sagas {outcome.counts}")
    figures = {
        **cost,
        "cpu_ms": cost["services_cpu_ms"] + cost["servers_cpu_ms"],
        "a_second": outcome.per_second,
        "p50_ms": 1000 * percentile(outcome.latencies, 0.5),
        "p99_ms": 1000 * percentile(outcome.latencies, 0.99),
        "memory_mb": memory,
        "load_average": os.getloadavg()[0],
    }
    return Measured(told, outcome, figures)


def _cost(running: Running) -> Cost:
    return Cost(cpu_of(running.services), cpu_of(running.servers), running.written())
