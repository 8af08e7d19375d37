"""What a saga costs with few and with very many others in the database, by pairs on two stacks that run at once.

One database stays as small as the other began. Each round loads both in turn, so that a machine that grows slower
slows both, and the figure is the ratio of the two.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from tests.benchmarks.load import Load
from tests.benchmarks.noop import bench
from tests.benchmarks.on_kafka import PRODUCT
from tests.benchmarks.scale import measuring, population
from tests.benchmarks.stage import Stage

Say = Callable[[str], None]
WARM_UP = 300
_PAGES = """
SELECT (blks_hit + blks_read)::float8 AS pages, blks_read::float8 AS read FROM pg_stat_database
WHERE datname = current_database()
"""


class Plan(NamedTuple):
    """To which sizes the big database grows, and how many pairs of loads of how many sagas are run at each."""

    sizes: Sequence[int]
    rounds: int
    sagas: int


def measure(small: Stage, big: Stage, plan: Plan, say: Say) -> dict[str, Any]:
    """Bring `big` to each size in turn, `small` to the first only, and compare what further sagas cost on each."""
    # The first of some sagas is the model of all that are loaded.
    real = {home: next(iter(_take(stage, 50))) for home, stage in {small.home: small, big.home: big}.items()}
    population.load(small, bench.name, real[small.home], plan.sizes[0], say)
    rows: list[dict[str, Any]] = []
    there = 0
    for size in plan.sizes:
        loaded = population.load(big, bench.name, real[big.home], size - there, say)
        there = size
        # Unmeasured: what new rows touch first is in memory then.
        _take(big, plan.sagas)
        pairs = [_pair(small, big, number, plan.sagas) for number in range(plan.rounds)]
        rows.append(
            {"sagas": size, "load_seconds": loaded.seconds, **_compared(pairs), "tables": population.sizes(big)}
        )
        say(f"{size:,} sagas: {rows[-1]['cpu_ratio']:.3f} of the CPU a saga with {plan.sizes[0]:,}")
    return {"part": "growth", "rows": rows}


def _take(stage: Stage, sagas: int) -> Iterable[str]:
    """Run sagas that nobody measures; give their ids."""
    with PRODUCT.running(stage) as running:
        return running.run(Load("happy", 0, sagas)).starts


def _pair(small: Stage, big: Stage, number: int, sagas: int) -> dict[str, dict[str, Any]]:
    """Measure both, every other time the big one first."""
    turns = [("small", small), ("big", big)]
    return {name: _run(stage, sagas) for name, stage in (turns if number % 2 else reversed(turns))}


def _run(stage: Stage, sagas: int) -> dict[str, Any]:
    with PRODUCT.running(stage) as running:
        running.run(Load("happy", 0, min(WARM_UP, sagas)))
        before = stage.ask(_PAGES)[0]
        figures = measuring.run(running, Load("happy", 0, sagas)).figures
    # The sessions have ended: what they had counted is told.
    after = stage.ask(_PAGES)[0]
    return {**figures, **{name: (after[name] - before[name]) / sagas for name in ("pages", "read")}}


def _compared(pairs: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Give the medians of each, and those of the pairs' ratios."""
    told: dict[str, Any] = {"pairs": pairs}
    for figure in ("cpu_ms", "services_cpu_ms", "servers_cpu_ms", "a_second", "bytes_written", "pages", "read"):
        told[figure] = statistics.median(pair["big"][figure] for pair in pairs)
    for figure, ratio in (("cpu_ms", "cpu_ratio"), ("a_second", "rate_ratio"), ("bytes_written", "written_ratio")):
        told[ratio] = statistics.median(pair["big"][figure] / pair["small"][figure] for pair in pairs)
    told["cpu_ratios"] = [pair["big"]["cpu_ms"] / pair["small"]["cpu_ms"] for pair in pairs]
    return told
