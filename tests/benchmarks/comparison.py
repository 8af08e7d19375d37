"""Loads of sagas that do nothing, on each system in turn."""

import os
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.benchmarks.load import Counts, Load, Outcome, judge
from tests.benchmarks.meter import Cost, cpu_of, memory_of
from tests.benchmarks.rounds import Say, in_rounds
from tests.benchmarks.stage import Stage
from tests.benchmarks.system import Running, System

RATES = (20, 100, 300)
HEADROOM = 0.9
"""Above this share of its rate flat out a system is saturated: its queue, and so its latency, only grows."""
WARM_UP = 200
SETTLE = 1.0
"""Seconds of rest after the first sagas, which wait for whatever is still starting."""


class Plan(NamedTuple):
    """How much is measured. `seconds` is how long a load at an open rate lasts, `budget` when no round is begun."""

    rounds: int
    sagas: int | None
    seconds: float
    rates: Sequence[int]
    budget: float | None


class Sample(NamedTuple):
    """One load of one system; no outcome where it was saturated."""

    system: str
    load: Load
    outcome: Outcome | None
    cost: dict[str, float]
    memory_mb: dict[str, float]
    load_average: float


def compare(stage: Stage, systems: Sequence[System], plan: Plan, say: Say) -> list[Sample]:
    """Measure the rounds."""
    return in_rounds(systems, plan.rounds, plan.budget, lambda system: _measure(stage, system, plan), say)


def _measure(stage: Stage, system: System, plan: Plan) -> Iterator[Sample]:
    with system.running(stage) as running:
        running.run(Load("happy", 0, min(WARM_UP, system.sagas("happy") // 2, plan.sagas or WARM_UP)))
        time.sleep(SETTLE)
        capacity = 0.0
        for load in _loads(system, plan):
            if load.rate > HEADROOM * capacity and load.rate:
                yield Sample(system.name, load, None, {}, {}, os.getloadavg()[0])
                continue
            sample = _take(system, running, load)
            if sample.outcome and not load.rate and load.kind == "happy":
                capacity = sample.outcome.per_second
            yield sample


def _loads(system: System, plan: Plan) -> Iterator[Load]:
    for kind in system.kinds:
        yield Load(kind, 0, min(plan.sagas or system.sagas(kind), system.sagas(kind)))
    for rate in plan.rates if system.paced else ():
        yield Load("happy", rate, max(1, round(rate * plan.seconds)))


def _take(system: System, running: Running, load: Load) -> Sample:
    before = _cost(running)
    ran = running.run(load)
    cost = _cost(running).since(before, load.sagas)
    cost["generator_cpu_ms"] = 1000 * ran.generator_cpu / load.sagas
    memory = {"services": memory_of(running.services), "servers": memory_of(running.servers)}
    return Sample(system.name, load, judge(running.look(ran)), cost, memory, os.getloadavg()[0])


def _cost(running: Running) -> Cost:
    return Cost(cpu_of(running.services), cpu_of(running.servers), running.written())


def total(counts: Sequence[Counts]) -> Counts:
    """Add up what several loads came to."""
    return Counts(*(sum(column) for column in zip(*counts, strict=True)))
