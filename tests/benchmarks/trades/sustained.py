"""The highest rate that a deployment sustains: a search over open rates, within a time limit."""

import time
from collections.abc import Callable
from typing import NamedTuple

from rich.console import Console

from tests.benchmarks.load import percentile
from tests.benchmarks.stage import Stage
from tests.benchmarks.trades.deployment import Deployment
from tests.benchmarks.trades.measuring import TradeSample, prepare, take
from tests.benchmarks.trades.plan import at_rate

FIRST = 20
GOAL = 1.0
"""Seconds that the 99th percentile of a sustained rate must stay under."""
CLOSE = 1.1
"""The search ends when the lowest rate that failed is at most this multiple of the highest that held."""


class Sustained(NamedTuple):
    """The rates that were tried, in order; `highest` is 0 if none held."""

    system: str
    highest: int
    samples: list[TradeSample]
    finished: bool
    """Whether the search ended before its time limit."""


def find_sustained(stage: Stage, deployment: Deployment, seconds: float, budget: float) -> Sustained:
    """Search for the highest rate that holds for so many seconds."""
    console, samples, limit = Console(stderr=True), list[TradeSample](), time.monotonic() + budget
    with deployment.running(stage) as deployed:
        prepare(deployed)

        def try_rate(rate: int) -> bool:
            sample = take(deployed, at_rate(rate, seconds))
            samples.append(sample)
            held = holds(sample)
            console.print(f"{deployment.name}: {rate}/s {'held' if held else 'did not hold'}", highlight=False)
            return held

        highest, finished = search(try_rate, lambda: time.monotonic() + 2 * seconds < limit)
    return Sustained(deployment.name, highest, samples, finished)


def holds(sample: TradeSample) -> bool:
    """Return whether all trades of the load were accepted and completed, with p99 under the goal."""
    fate = sample.fate
    if fate.outcome is None or fate.outcome.counts.completed < sample.load.trades:
        return False
    return fate.as_wanted and percentile(fate.outcome.latencies, 0.99) < GOAL


def search(try_rate: Callable[[int], bool], may_go_on: Callable[[], bool], first: int = FIRST) -> tuple[int, bool]:
    """Double or halve the rate until one holds and one does not, then bisect; return it, and whether that was all."""
    highest, lowest_failed, rate = 0, 0, first
    while rate and not (lowest_failed and highest and lowest_failed <= max(highest + 1, highest * CLOSE)):
        if not may_go_on():
            return highest, False
        if try_rate(rate):
            highest = rate
        else:
            lowest_failed = rate
        rate = _following(highest, lowest_failed)
    return highest, True


def _following(highest: int, lowest_failed: int) -> int:
    if not lowest_failed:
        return 2 * highest
    return (highest + lowest_failed) // 2
