"""The figures of each part as a table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]


def table_of(part: Mapping[str, Any]) -> Table:
    """Show a part's rows."""
    title, columns = _PARTS[part["part"]]
    table = Table(title=title)
    for heading, _ in columns:
        table.add_column(heading, justify="right")
    for row in part["rows"]:
        table.add_row(*(show(row) for _, show in columns))
    return table


def _number(name: str, form: str = ",.0f") -> Callable[[Row], str]:
    return lambda row: format(row[name], form) if name in row else ""


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: str(row[name])


def _sum(name: str, form: str = ",.0f") -> Callable[[Row], str]:
    return lambda row: format(sum(row[name].values()), form) if name in row else ""


def _most(name: str, form: str) -> Callable[[Row], str]:
    return lambda row: format(max(row[name].values()), form) if row.get(name) else ""


def _statement(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row['statements'][name]['milliseconds']:,.1f}" if "statements" in row else ""


def _cpu(row: Row) -> str:
    return f"{row['services_cpu_ms'] + row['servers_cpu_ms']:.2f}" if "services_cpu_ms" in row else ""


def _gigabytes(tables: Iterable[Row], name: str) -> str:
    return f"{sum(table[name] for table in tables) / 1e9:.2f}"


def _first_end(row: Row) -> str:
    return row.get("given_up") or f"{row['first_end_seconds']:.1f}"


def _open(row: Row) -> str:
    return f"{row['open']:,}{', all overdue' if row.get('overdue') else ''}"


_PARTS: Mapping[str, tuple[str, Sequence[Column]]] = {
    "in_flight": (
        "sagas in flight",
        (
            ("in flight", _number("in_flight")),
            ("started/s", _number("taken_off_a_second")),
            ("further sagas/s", _number("beside_a_second")),
            ("ended/s", _number("ended_a_second")),
            ("CPU ms per saga", _cpu),
            ("services MB", _sum("memory_mb", ",.1f")),
            ("bytes of memory per additional saga", _sum("bytes_a_saga")),
            ("bytes of tables per saga", _number("database_bytes_a_saga")),
        ),
    ),
    "saturation": (
        "overload",
        (
            ("door", _text("door")),
            ("of capacity", _number("multiple", "g")),
            ("offered/s", _number("offered_a_second")),
            ("ended/s while offered", _number("ended_meanwhile_a_second")),
            ("ended/s in total", _number("a_second")),
            ("CPU ms per saga", _cpu),
            ("p50 ms", _number("p50_ms")),
            ("p99 ms", _number("p99_ms")),
            ("services MB", _number("memory_mb")),
        ),
    ),
    "growth": (
        "sagas in the database",
        (
            ("sagas", _number("sagas")),
            ("tables GB", lambda row: _gigabytes(row["tables"], "table_bytes")),
            ("indexes GB", lambda row: _gigabytes(row["tables"], "index_bytes")),
            ("sagas/s", _number("a_second")),
            ("CPU ms per saga", _number("cpu_ms", ".2f")),
            ("CPU, ratio to the small database", _number("cpu_ratio", ".3f")),
            ("rate, ratio to the small database", _number("rate_ratio", ".3f")),
            ("kB written per saga", lambda row: f"{row['bytes_written'] / 1000:.1f}"),
            ("pages per saga", _number("pages")),
            ("of these from disk", _number("read", ".1f")),
            ("loaded in s", _number("load_seconds")),
        ),
    ),
    "restart": (
        "restarts with open sagas",
        (
            ("open", _open),
            ("ready s", _most("ready_seconds", ".1f")),
            ("first saga ended s", _first_end),
            ("then sagas/s", _number("beside_a_second")),
            ("services MB", _sum("memory_mb", ",.1f")),
            ("next due ms", _statement("steps: next due")),
            ("due ms", _statement("steps: due")),
            ("next deadline ms", _statement("saga log: next deadline")),
            ("deadlines ms", _statement("saga log: deadlines")),
            ("loaded in s", _number("load_seconds")),
        ),
    ),
    "rebalance": (
        "rebalances",
        (
            ("workers", _number("workers")),
            ("change", _text("change")),
            ("longest pause ms", _number("longest_pause_ms")),
            ("median partition's ms", _number("median_pause_ms")),
            ("p50 ms", _number("p50_ms")),
            ("p99 ms", _number("p99_ms")),
            ("slowest ms", _number("slowest_ms")),
            ("lost", _number("lost")),
            ("done twice", _number("done_twice")),
        ),
    ),
}
