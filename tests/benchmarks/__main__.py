"""Runs the floor and the product in turn on servers of their own: `python -m tests.benchmarks [--sagas N] [--pairs N]`.

Flat out, then at 20 starts a second; medians over interleaved pairs, since one machine's speed drifts. Writes
`build/bench.json`. With `--sealing` it is the product with and without the sealer instead, into `build/sealing.json`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

from infra.stack.servers import start_servers, stop_servers
from tests.benchmarks.sealing import PAIRS, measure, table_of

SYSTEMS = ("floor", "product")
RATE = 20


def main(
    sagas: Annotated[int | None, typer.Option(help="Sagas of one flat-out run.")] = None,
    pairs: Annotated[int | None, typer.Option(help="Interleaved pairs of runs; 3, of sealing 9.")] = None,
    paced: Annotated[int, typer.Option(help="Sagas of one run at 20 a second.")] = 300,
    out: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
    *,
    sealing: Annotated[bool, typer.Option("--sealing", help="Measure what sealing costs instead.")] = False,
) -> None:
    """Measure, print a table, write the figures."""
    if sealing:
        _measure_sealing(pairs or PAIRS, sagas, out or Path("build/sealing.json"))
    else:
        _measure_path(sagas or 10_000, pairs or 3, paced, out or Path("build/bench.json"))


def _measure_sealing(pairs: int, sagas: int | None, out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tradesaga-bench-") as folder, _servers(Path(folder)) as environment:
        Path(folder).chmod(0o711)
        summary = measure(environment, Path(folder), pairs, sagas)
    _write(out, {**summary, "load_average": os.getloadavg()})
    Console().print(table_of(summary))


def _measure_path(sagas: int, pairs: int, paced: int, out: Path) -> None:
    console = Console()
    results: dict[str, dict[str, list[Any]]] = {system: {"flat": [], "paced": [], "memory": []} for system in SYSTEMS}
    with tempfile.TemporaryDirectory(prefix="tradesaga-bench-") as folder, _servers(Path(folder)) as environment:
        Path(folder).chmod(0o711)
        for number in range(pairs):
            for system in SYSTEMS:
                console.print(f"pair {number + 1} of {pairs}: {system}")
                _run(system, environment, sagas, paced, results[system])
    summary = {system: _summary(figures) for system, figures in results.items()}
    summary["ratios"] = {
        "rate": summary["product"]["per_second"] / summary["floor"]["per_second"],
        "p50": summary["product"]["p50_ms"] / summary["floor"]["p50_ms"],
    }
    _write(out, {**summary, "runs": results, "load_average": os.getloadavg()})
    console.print(_table(summary))


def _write(out: Path, figures: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2))


@contextmanager
def _servers(home: Path) -> Generator[dict[str, str]]:
    state = start_servers(home)
    try:
        yield {**os.environ, "TRADESAGA_KAFKA": state.kafka, "TRADESAGA_DATABASE_URL": state.database_url}
    finally:
        stop_servers(home)


def _run(system: str, environment: dict[str, str], sagas: int, paced: int, figures: dict[str, list[Any]]) -> None:
    command = [sys.executable, "-m", f"tests.benchmarks.{system}"]
    subprocess.run([*command, "init"], env=environment, check=True)
    services = [
        subprocess.Popen([*command, role], env=environment, stderr=subprocess.DEVNULL) for role in ("steps", "log")
    ]
    try:
        time.sleep(4)
        _load(command, environment, 200, 0)
        if paced:
            figures["paced"].append(_load(command, environment, paced, RATE))
        figures["flat"].append(_load(command, environment, sagas, 0))
        memory = [psutil.Process(service.pid).memory_full_info().pss for service in services]
        figures["memory"].append(max(memory) / 1024 / 1024)
    finally:
        for service in services:
            service.terminate()
        for service in services:
            service.wait(20)


def _load(command: list[str], environment: dict[str, str], count: int, rate: int) -> dict[str, float]:
    done = subprocess.run(
        [*command, "load", str(count), str(rate)], env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def _summary(figures: dict[str, list[Any]]) -> dict[str, float]:
    return {
        "per_second": statistics.median(run["per_second"] for run in figures["flat"]),
        "p50_ms": 1000 * statistics.median(run["p50"] for run in figures["paced"]),
        "p99_ms": 1000 * statistics.median(run["p99"] for run in figures["paced"]),
        "memory_mb": max(figures["memory"]),
    }


def _table(summary: dict[str, dict[str, float]]) -> Table:
    table = Table(title="five steps, medians; p50 and p99 at 20 starts a second")
    for heading in ("", "sagas a second", "p50 ms", "p99 ms", "largest process MB"):
        table.add_column(heading, justify="left" if not heading else "right")
    for system in SYSTEMS:
        row = summary[system]
        table.add_row(
            system,
            f"{row['per_second']:.0f}",
            f"{row['p50_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
            f"{row['memory_mb']:.0f}",
        )
    table.add_row("ratio", f"{summary['ratios']['rate']:.2f}", f"{summary['ratios']['p50']:.2f}", "", "")
    return table


if __name__ == "__main__":
    typer.run(main)
