"""The step path beside its floor and beside what people use today: `make bench`, or `python -m tests.benchmarks`.

Writes `build/bench.json` and `build/bench.svg`. With `--sealing` it is the product with and without the sealer instead,
into `build/sealing.json`. Exits with 1 when a saga was lost, failed or done twice.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tests.benchmarks.comparison import RATES, Plan, compare
from tests.benchmarks.machine import describe
from tests.benchmarks.on_kafka import FLOOR, PRODUCT, VARIANTS
from tests.benchmarks.peers.environment import has_dbos, has_restate, has_temporal
from tests.benchmarks.peers.on_dbos import Dbos
from tests.benchmarks.peers.on_restate import Restate
from tests.benchmarks.peers.on_temporal import Temporal
from tests.benchmarks.plot import draw
from tests.benchmarks.report import figures_of, ratios_of, table_of
from tests.benchmarks.sealing import PAIRS, measure
from tests.benchmarks.sealing import table_of as sealing_table
from tests.benchmarks.stage import servers
from tests.benchmarks.system import System

MINUTES = 20.0
ROUNDS = 4
FAMILIES = ("floor", "product", "variants", "dbos", "restate", "temporal")


def main(
    *,
    sagas: Annotated[int | None, typer.Option(help="Most sagas of one load flat out.")] = None,
    pairs: Annotated[int | None, typer.Option(help="Rounds, each of all systems; 4, of sealing 9.")] = None,
    seconds: Annotated[float, typer.Option(help="How long each open rate is held.")] = 15.0,
    rates: Annotated[str, typer.Option(help="Open rates, starts a second.")] = ",".join(map(str, RATES)),
    systems: Annotated[str, typer.Option(help=f"Some of {', '.join(FAMILIES)}.")] = ",".join(FAMILIES),
    minutes: Annotated[float, typer.Option(help="No round is begun that would end later; 0: no bound.")] = MINUTES,
    out: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
    sealing: Annotated[bool, typer.Option("--sealing", help="Measure what sealing costs instead.")] = False,
) -> None:
    """Measure, print a table, write the figures."""
    if sealing:
        _measure_sealing(pairs or PAIRS, sagas, out or Path("build/sealing.json"))
        return
    if not all(rate.isdecimal() and int(rate) for rate in rates.split(",") if rate):
        raise typer.BadParameter(f"{rates}: give rates as whole numbers above 0, separated by commas")
    paces = [int(rate) for rate in rates.split(",") if rate]
    plan = Plan(pairs or ROUNDS, sagas, seconds, paces, 60 * minutes - 60 if minutes else None)
    if not _compare(_chosen(systems.split(",")), plan, out or Path("build/bench.json")):
        raise typer.Exit(1)


def _measure_sealing(pairs: int, sagas: int | None, out: Path) -> None:
    with servers() as stage:
        summary = measure(stage.environment, stage.home, pairs, sagas)
    _write(out, {**summary, "load_average": os.getloadavg()})
    Console().print(sealing_table(summary))


def _chosen(families: Sequence[str]) -> list[System]:
    """Make the systems asked for; peers that are not installed are left out, and that is told."""
    if unknown := set(families) - set(FAMILIES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: give some of {', '.join(FAMILIES)}")
    peers: dict[str, tuple[bool, Callable[[], System]]] = {
        "dbos": (has_dbos(), Dbos),
        "restate": (has_restate(), Restate),
        "temporal": (has_temporal(), Temporal),
    }
    if left_out := [name for name, (there, _) in peers.items() if name in families and not there]:
        Console(stderr=True).print(f"not installed, and so left out: {', '.join(left_out)}; run `make bench-peers`")
    known: dict[str, Sequence[System]] = {"floor": (FLOOR,), "product": (PRODUCT,), "variants": VARIANTS}
    known |= {name: (peer(),) for name, (there, peer) in peers.items() if there and name in families}
    chosen = [system for family in FAMILIES if family in families for system in known.get(family, ())]
    if not chosen:
        raise typer.BadParameter("none of the systems asked for is installed")
    return chosen


def _compare(systems: Sequence[System], plan: Plan, out: Path) -> bool:
    """Measure and write; say whether every saga of every load ended as it should, once."""
    log, console = Console(stderr=True), Console()
    with servers() as stage:
        machine = describe(stage)
        samples = compare(stage, systems, plan, log.print)
        machine["exports_of_spans"] = stage.sink.exports
    figures, settings = figures_of(samples), {system.name: system.settings for system in systems}
    for figure in figures:
        figure["settings"] = settings[figure["system"]]
    ratios = ratios_of(figures)
    _write(out, {"machine": machine, "plan": plan._asdict(), "ratios": ratios, "figures": figures})
    out.with_suffix(".svg").write_text(draw(figures))
    (Console(width=200) if not console.is_terminal else console).print(table_of(figures))
    for name, ratio in ratios.items():
        console.print(f"tradesaga is at {ratio:.2f} times the rate of {name}", highlight=False)
    return all(figure.get("as_wanted", True) for figure in figures)


def _write(out: Path, figures: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
