"""Sagas in flight: what each costs in memory, and what rates the product keeps with many of them."""

import os
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import psutil

from tests.benchmarks.meter import MEGABYTE, Cost, cpu_of, log_bytes, memory_of
from tests.benchmarks.scale import load
from tests.benchmarks.scale.processes import WAITING, Service, running
from tests.benchmarks.stage import Stage

Say = Callable[[str], None]
SETTLE = 2.0
"""Seconds of rest before memory is read."""
TABLES = "SELECT sum(pg_total_relation_size(relid))::float8 AS bytes FROM pg_stat_user_tables"


def measure(stage: Stage, sizes: Sequence[int], beside: int, say: Say) -> dict[str, Any]:
    """Hold each number of sagas in flight in turn; `beside` is how many others then run past them."""
    load.prepare(stage)
    with running(stage, WAITING, load.APP) as services:
        warm, _ = load.begin(stage, 200, reported=True)
        load.wait(stage, load.ENDED, warm, 60)
        time.sleep(SETTLE)
        rows = [_row(services, 0, memory=_memory(services))]
        for size in sizes:
            rows.append(_hold(stage, services, size, beside))
            say(f"{size:,} in flight: {rows[-1]['ended_a_second']:.0f} a second")
    for before, row in pairwise(rows):
        more = row["in_flight"] - before["in_flight"]
        row["bytes_a_saga"] = {
            name: MEGABYTE * (row["memory_mb"][name] - before["memory_mb"][name]) / more for name in row["memory_mb"]
        }
    return {"part": "in_flight", "rows": rows}


def _hold(stage: Stage, services: Sequence[Service], size: int, beside: int) -> dict[str, Any]:
    """Bring sagas into flight, read memory, run others past them, and let all of them land."""
    limit = 120 + size / 100
    tables = _tables(stage)
    cost = _cost(stage, services)
    sagas, began = load.begin(stage, size)
    load.wait(stage, load.IN_FLIGHT, sagas, limit)
    taken_off = size / (_last(stage, load.LAST_IN_FLIGHT, sagas) - began)
    time.sleep(SETTLE)
    memory, kept = _memory(services), (_tables(stage) - tables) / size
    others, passing = load.begin(stage, beside, reported=True)
    load.wait(stage, load.ENDED, others, limit)
    passed = beside / (_last(stage, load.LAST_ENDED, others) - passing)
    landing = load.report(stage, sagas)
    load.wait(stage, load.ENDED, sagas, limit)
    ended = size / (_last(stage, load.LAST_ENDED, sagas) - landing)
    spent = _cost(stage, services).since(cost, size + beside)
    return _row(
        services, size, memory=memory, taken_off_a_second=taken_off, beside_a_second=passed, ended_a_second=ended,
        database_bytes_a_saga=kept, load_average=os.getloadavg()[0], **spent,
    )  # fmt: skip


def _row(services: Sequence[Service], size: int, *, memory: dict[str, float], **figures: float) -> dict[str, Any]:
    for service in services:
        service.check()
    return {"in_flight": size, "memory_mb": memory, **figures}


def _memory(services: Sequence[Service]) -> dict[str, float]:
    return {service.name: memory_of([psutil.Process(service.process.pid)]) for service in services}


def _tables(stage: Stage) -> float:
    return stage.ask(TABLES)[0]["bytes"]


def _last(stage: Stage, question: str, sagas: Sequence[str]) -> float:
    return stage.ask(question, sagas)[0]["at"]


def _cost(stage: Stage, services: Sequence[Service]) -> Cost:
    own = [psutil.Process(service.process.pid) for service in services]
    written = stage.wal_bytes() + log_bytes(stage.kafka_data)
    return Cost(cpu_of(own), cpu_of((stage.postgres, stage.kafka)), written)
