"""From samples to figures: medians with intervals by system and load, a table, and one object for the file."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from tests.benchmarks.comparison import Sample, total
from tests.benchmarks.load import Load, percentile
from tests.benchmarks.sealing import median_interval

ENOUGH = 10_000
"""Sagas from which on a 99.9th percentile rests on more than ten of them."""

FINE = 100
"""Sagas a second below which a tenth is shown."""


def figures_of(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Give one object a system and load, in the order in which they were first measured."""
    groups: dict[tuple[str, str, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.system, sample.load.kind, sample.load.rate), []).append(sample)
    return [_figure(group) for group in groups.values()]


def _figure(group: Sequence[Sample]) -> dict[str, Any]:
    load = group[0].load
    figure: dict[str, Any] = {
        "system": group[0].system,
        "load": {"kind": load.kind, "rate": load.rate or None, "sagas": load.sagas},
        "load_average": [sample.load_average for sample in group],
        "saturated": sum(sample.outcome is None for sample in group),
    }
    told = [(sample, sample.outcome) for sample in group if sample.outcome is not None]
    if not told:
        return figure
    outcomes = [outcome for _, outcome in told]
    return {
        **figure,
        "runs": len(told),
        "per_second": spread([outcome.per_second for outcome in outcomes]),
        **({"latency_ms": latency_of([outcome.latencies for outcome in outcomes])} if load.rate else {}),
        "a_saga": medians(sample.cost for sample, _ in told),
        "memory_mb": medians(sample.memory_mb for sample, _ in told),
        "counts": total([outcome.counts for outcome in outcomes])._asdict(),
        "as_wanted": all(outcome.counts.as_wanted(sample.load) for sample, outcome in told),
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the median of the rounds with its interval."""
    return {"median": statistics.median(values), "interval": median_interval(values)._asdict(), "values": values}


def medians(each: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of the rounds for each name of the first."""
    several = list(each)
    return {name: statistics.median(one[name] for one in several) for name in several[0]}


def latency_of(runs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Give each run's percentiles in milliseconds, and those of all runs together where they are enough for them.

    Each run is its latencies in seconds, in order.
    """
    latency: dict[str, Any] = {}
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        values = [1000 * percentile(run, share) for run in runs if run]
        if values:
            latency[name] = spread(values)
    pooled = sorted(value for run in runs for value in run)
    if len(pooled) >= ENOUGH:
        latency["p99.9"] = 1000 * percentile(pooled, 0.999)
    return latency


def ratios_of(figures: Iterable[Mapping[str, Any]], system: str = "tradesaga") -> dict[str, float]:
    """Give the system's sagas a second flat out as multiples of each other one's."""
    rates = {
        figure["system"]: figure["per_second"]["median"]
        for figure in figures
        if "per_second" in figure and figure["load"] == {**figure["load"], "kind": "happy", "rate": None}
    }
    own = rates.pop(system, None)
    return {name: own / rate for name, rate in rates.items() if own and rate}


def table_of(figures: Sequence[Mapping[str, Any]]) -> Table:
    """Show the figures: systems down, loads below each other, costs of one saga across."""
    headings = (
        "system", "load", "sagas/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU ms per saga", "memory MB",
        "kB written per saga", "completed / aborted / failed / lost / duplicated",
    )  # fmt: skip
    table = Table(title="five steps that do nothing; medians, and the interval of the rate", show_lines=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < 2 else "right")
    shown = ""
    for figure in figures:
        if figure["system"] != shown:
            table.add_section()
        table.add_row(figure["system"] if figure["system"] != shown else "", *_cells(figure))
        shown = figure["system"]
    return table


def _cells(figure: Mapping[str, Any]) -> Sequence[str]:
    load = Load(figure["load"]["kind"], figure["load"]["rate"] or 0, figure["load"]["sagas"]).name
    if "per_second" not in figure:
        return (load, "saturated")
    rate, cost, memory = figure["per_second"], figure["a_saga"], figure["memory_mb"]
    low, high, _ = rate["interval"].values()
    latency = figure.get("latency_ms", {})
    return (
        load,
        f"{_rate(rate['median'])} ({_rate(low)} to {_rate(high)})",
        *(f"{latency[name]['median']:.1f}" if name in latency else "" for name in ("p50", "p99")),
        f"{latency['p99.9']:.1f}" if "p99.9" in latency else "",
        f"{cost['services_cpu_ms'] + cost['servers_cpu_ms']:.2f}",
        f"{memory['services'] + memory['servers']:.0f}",
        f"{cost['bytes_written'] / 1000:.1f}",
        " / ".join(str(count) for count in figure["counts"].values()),
    )


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= FINE else f"{value:.1f}"
