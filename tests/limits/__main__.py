"""Ten thousand sagas in flight on servers of their own: `python -m tests.limits [--sagas N] [--sleep SECONDS]`.

Exit 1 when they take longer than their work and one sleep, and half as much again, or a process passes its memory.
Writes `build/limits.json`.
"""

import asyncio
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.limits.measure import MEMORY_MB, Figures, environment_of, measure
from tradesaga.infra.local_stack.servers import start_servers, stop_servers


def main(
    sagas: Annotated[int, typer.Option(help="Sagas in flight at once.")] = 10_000,
    sleep: Annotated[float, typer.Option(help="Seconds that each waits at the venue.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("build/limits.json"),
) -> None:
    """Measure, print, write the figures."""
    with tempfile.TemporaryDirectory(prefix="tradesaga-limits-") as folder:
        Path(folder).chmod(0o711)
        state = start_servers(Path(folder))
        try:
            figures = asyncio.run(measure(environment_of(state.kafka, state.database_url), sagas, sleep))
        finally:
            stop_servers(Path(folder))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**asdict(figures), "allowed": figures.allowed}, indent=2))
    largest = _print(figures)
    if figures.asleep.seconds > figures.allowed or largest > MEMORY_MB:
        raise typer.Exit(1)


def _print(figures: Figures) -> float:
    awake, asleep = figures.awake, figures.asleep
    largest = max(*awake.memory_mb.values(), *asleep.memory_mb.values())
    console = Console()
    console.print(f"{asleep.open_at_once} sagas open at once; without sleep {awake.rate:.0f} a second")
    console.print(f"each asleep {figures.sleep:g} s: {asleep.seconds:.1f} s of {figures.allowed:.1f} s allowed")
    console.print(f"largest process {largest:.0f} MB of {MEMORY_MB:.0f} MB")
    return largest


if __name__ == "__main__":
    typer.run(main)
