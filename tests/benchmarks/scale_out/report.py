"""What the runs say of more processes: rates, efficiency, and what a saga costs in statements, batches and CPU."""

import statistics
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.scale_out.costs import MICRO, Costs
from tests.benchmarks.scale_out.fitting import expected_per_second
from tests.benchmarks.scale_out.runs import Run
from tests.benchmarks.scale_out.sheet import Sheet

Row = dict[str, Any]


def efficiencies(runs: Sequence[Run], costs: Costs) -> list[Row]:
    """Give a row a load, medians over rounds; efficiency is beside one process of each service."""
    groups: dict[tuple[str, float, int, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run["where"], run["delay_ms"], run["rate"], run["workers"]), []).append(run)
    rows = [_row(key, group, costs) for key, group in sorted(groups.items())]
    first = {(row["where"], row["delay_ms"], row["rate"]): row for row in reversed(rows)}
    for row in rows:
        one = first[row["where"], row["delay_ms"], row["rate"]]
        more = row["workers"] / one["workers"]
        row["speed_up"] = None if row["rate"] else row["per_second"] / one["per_second"]
        row["rate_efficiency"] = None if row["rate"] else row["speed_up"] / more
        row["cpu_efficiency"] = one["services_cpu_us"] / row["services_cpu_us"]
    return rows


def _row(key: tuple[str, float, int, int], group: Sequence[Run], costs: Costs) -> Row:
    where, delay, rate, workers = key
    row: Row = {"where": where, "delay_ms": delay, "rate": rate, "workers": workers, "runs": len(group)}
    for name in ("per_second", "p50_ms", "p99_ms"):
        row[name] = statistics.median(run[name] for run in group)
    row["per_second_values"] = [run["per_second"] for run in group]
    for name, parts in (
        ("services_cpu_us", ("cpu_steps", "cpu_log")),
        ("servers_cpu_us", ("cpu_postgres", "cpu_kafka")),
        ("statements", ("statements_steps", "statements_log")),
        ("batches", ("batches_steps", "batches_log")),
        ("messages", ("messages_steps", "messages_log")),
    ):
        scale = 1 / MICRO if name.endswith("_us") else 1
        row[name] = statistics.median(scale * sum(run["spent"][part] for part in parts) / run["sagas"] for run in group)
    if where == "network":
        row["trip_ms"] = statistics.median(run["trip_ms"] for run in group)
        row["expected_per_second"] = statistics.median(expected_per_second(costs, run) for run in group)
    return row


def measured_sheet(rows: Sequence[Row]) -> Sheet:
    """Show the rows."""
    headings = (
        "network", "processes per service", "sagas/s", "speedup", "efficiency", "model, sagas/s", "round trip ms",
        "service CPU µs", "CPU efficiency", "server CPU µs", "statements", "batches", "messages per batch",
        "p50, p99 ms",
    )  # fmt: skip
    return Sheet("more processes per service; medians over rounds, costs per saga", headings, [*map(_cells, rows)])


def _cells(row: Row) -> Sequence[str]:
    place = f"loopback, {row['rate']}/s" if row["rate"] else "loopback, flat out"
    paced, networked = bool(row["rate"]), row["where"] == "network"
    return (
        f"{row['delay_ms']:g} ms each way" if networked else place,
        str(row["workers"]),
        f"{row['per_second']:.0f}",
        "" if paced else f"{row['speed_up']:.2f}",
        "" if paced else f"{row['rate_efficiency']:.2f}",
        f"{row['expected_per_second']:.0f}" if networked else "",
        f"{row['trip_ms']:.1f}" if networked else "",
        f"{row['services_cpu_us']:.0f}",
        "" if networked else f"{row['cpu_efficiency']:.2f}",
        f"{row['servers_cpu_us']:.0f}",
        f"{row['statements']:.2f}",
        f"{row['batches']:.2f}",
        f"{row['messages'] / row['batches']:.1f}",
        f"{row['p50_ms']:.0f}, {row['p99_ms']:.0f}" if paced else "",
    )
