"""The tables of real trades: latencies and counts by load, CPU by process, and the highest sustained rates."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from tests.benchmarks.trades.plan import TradeLoad
from tests.benchmarks.trades.records import REFUSED

_RESULTS = (
    "accepted in ms, p50 / p99", "trade ms, p50 / p99 / p99.9", "trades/s", "CPU ms per trade", "refused",
    "completed / aborted / failed / lost / doubled",
)  # fmt: skip
_COSTS = (
    "kB written", "commits", "statements", "rows inserted", "rows updated", "of them lane", "WAL records", "WAL kB",
    "full page images",
)  # fmt: skip


def results_table(figures: Sequence[Mapping[str, Any]]) -> Table:
    """Show latencies and counts, one line per deployment and load."""
    table = _table("real trades; medians of the rounds", ("deployment", "load", *_RESULTS), left=2)
    for figure in figures:
        table.add_row(figure["system"], _load(figure), *_results(figure))
    return table


def _results(figure: Mapping[str, Any]) -> Sequence[str]:
    return (
        _percentiles(figure["accepted_ms"], "p50", "p99"),
        _percentiles(figure["latency_ms"], "p50", "p99", "p99.9"),
        f"{figure['per_second']['median']:.1f}",
        f"{sum(figure['a_trade']['cpu_ms'].values()):.1f}",
        str(figure["answers"].get(str(REFUSED), 0)),
        " / ".join(str(count) for count in figure["counts"].values()),
    )


def costs_table(idle: Sequence[Mapping[str, Any]], figures: Sequence[Mapping[str, Any]]) -> Table:
    """Show what is written and what PostgreSQL does: per trade, and per second of the idle stack."""
    table = _table("written per trade, or per second of the idle stack", ("deployment", "load", *_COSTS), left=2)
    for each in idle:
        table.add_row(each["system"], "idle", *_costs(each["a_second"]))
    for figure in figures:
        table.add_row(figure["system"], _load(figure), *_costs(figure["a_trade"]))
    return table


def _costs(usage: Mapping[str, Any]) -> Sequence[str]:
    postgres = usage["postgres"]
    counters = ("commits", "statements", "rows_inserted", "rows_updated", "lane_updates", "wal_records")
    return (
        f"{usage['bytes_written'] / 1000:.1f}",
        *(f"{postgres[name]:.1f}" for name in counters),
        f"{postgres['wal_bytes'] / 1000:.1f}",
        f"{postgres['wal_page_images']:.1f}",
    )


def _percentiles(latency: Mapping[str, Any], *names: str) -> str:
    values = [latency[name] for name in names if name in latency]
    return " / ".join(f"{value['median'] if isinstance(value, Mapping) else value:.0f}" for value in values)


def processes_table(idle: Sequence[Mapping[str, Any]], figures: Sequence[Mapping[str, Any]], system: str) -> Table:
    """Show the CPU of one deployment by process: of the idle stack per second, and per trade of each load."""
    columns = {_load(each): each["a_trade"]["cpu_ms"] for each in figures if each["system"] == system}
    if rested := [each["a_second"]["cpu_ms"] for each in idle if each["system"] == system]:
        columns = {"idle, ms per second": rested[0], **columns}
    table = _table(f"{system}: CPU ms by process, per trade", ("process", *columns), left=1)
    for process in dict.fromkeys(name for column in columns.values() for name in column):
        table.add_row(process, *(f"{column[process]:.1f}" for column in columns.values()))
    table.add_section()
    table.add_row("all", *(f"{sum(column.values()):.1f}" for column in columns.values()))
    return table


def sustained_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Show the rates that were tried."""
    table = _table("highest rate with p99 below one second", ("deployment", "highest", "load", *_RESULTS), left=3)
    for search in found:
        highest = f"{search['highest']}/s" if search["finished"] else f"at least {search['highest']}/s"
        for number, figure in enumerate(search["tried"]):
            first = (search["system"], highest) if not number else ("", "")
            table.add_row(*first, _load(figure), *_results(figure))
    return table


def _table(title: str, headings: Sequence[str], left: int) -> Table:
    table = Table(title=title)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < left else "right")
    return table


def _load(figure: Mapping[str, Any]) -> str:
    return TradeLoad(figure["load"]["rate"] or 0, figure["load"]["trades"]).name
