"""The real trade, and the step path beside its floor and beside what people use today: `make bench`.

Writes `build/bench.json` and `build/bench.svg`. With `--sustained` it is the highest rate of trades instead, and with
`--sealing` the product with and without the sealer, into `build/sealing.json`. Exits with 1 when a saga was lost,
failed or done twice, or when money differs.
"""

import json
import math
import os
import signal
from collections.abc import Callable, Mapping, Sequence
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
from tests.benchmarks.peers.trades_on_dbos import TradesOnDbos
from tests.benchmarks.plot import draw
from tests.benchmarks.report import figures_of, ratios_of, table_of
from tests.benchmarks.sealing import PAIRS, measure
from tests.benchmarks.sealing import table_of as sealing_table
from tests.benchmarks.stage import servers
from tests.benchmarks.system import System
from tests.benchmarks.trades.deployment import SEPARATE, TOGETHER, Deployment
from tests.benchmarks.trades.plan import BURSTS, TradePlan
from tests.benchmarks.trades.plan import RATES as TRADE_RATES
from tests.benchmarks.trades.run import compare_trades, find_highest

MINUTES = 20.0
ROUNDS = 4
TRADES = ("trades", "trades-together", "trades-dbos")
FAMILIES = ("floor", "product", "variants", "dbos", "restate", "temporal")
ALL = (*TRADES, *FAMILIES)


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _numbers(text: str) -> list[int]:
    numbers = [number for number in text.split(",") if number]
    if not all(number.isdecimal() and int(number) for number in numbers):
        raise typer.BadParameter(f"{text}: give whole numbers above 0, separated by commas")
    return [int(number) for number in numbers]


def main(
    *,
    sagas: Annotated[int | None, typer.Option(help="Most sagas of one load flat out.")] = None,
    pairs: Annotated[int | None, typer.Option(help="Rounds, each of all systems; 4, of sealing 9.")] = None,
    seconds: Annotated[float | None, typer.Option(help="How long each open rate is held: 15, sustained 60.")] = None,
    rates: Annotated[str, typer.Option(help="Open rates of sagas that do nothing, per second.")] = _listed(RATES),
    trade_rates: Annotated[str, typer.Option(help="Open rates of trades, per second.")] = _listed(TRADE_RATES),
    bursts: Annotated[str, typer.Option(help="Trades started at once.")] = _listed(BURSTS),
    idle: Annotated[float, typer.Option(help="Seconds for which the idle stack is measured.")] = 20.0,
    systems: Annotated[str, typer.Option(help=f"Some of {', '.join(ALL)}.")] = ",".join(ALL),
    minutes: Annotated[float, typer.Option(help="Limit of trades, and of the other sagas; 0: none.")] = MINUTES,
    out: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
    sustained: Annotated[bool, typer.Option("--sustained", help="Search for the highest rate of trades.")] = False,
    sealing: Annotated[bool, typer.Option("--sealing", help="Measure what sealing costs instead.")] = False,
) -> None:
    """Measure, print a table, write the figures."""
    if sealing:
        _measure_sealing(pairs or PAIRS, sagas, out or Path("build/sealing.json"))
        return
    families, budget = systems.split(","), 60 * minutes - 60 if minutes else None
    if unknown := set(families) - set(ALL):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: give some of {', '.join(ALL)}")
    deployments = _deployments(families)
    out = out or Path("build/bench.json")
    if sustained:
        found = find_highest(deployments or [SEPARATE, TOGETHER], seconds or 60.0, budget or math.inf)
        _finish(out, {"sustained": found}, fine=found["as_wanted"])
        return
    hold, rounds = seconds or 15.0, pairs or ROUNDS
    plan = Plan(rounds, sagas, hold, _numbers(rates), budget)
    trade_plan = TradePlan(rounds, hold, _numbers(trade_rates), _numbers(bursts), idle, budget)
    chosen = _chosen([name for name in families if name in FAMILIES], alone=not deployments)
    results, fine = dict[str, Any](), True
    if deployments:
        results["trades"] = compare_trades(deployments, trade_plan)
        fine = results["trades"]["as_wanted"]
    if chosen:
        compared, as_wanted = _compare(chosen, plan, out)
        results, fine = results | compared, fine and as_wanted
    _finish(out, results, fine=fine)


def _finish(out: Path, results: dict[str, Any], *, fine: bool) -> None:
    _write(out, results)
    if not fine:
        raise typer.Exit(1)


def _measure_sealing(pairs: int, sagas: int | None, out: Path) -> None:
    with servers() as stage:
        summary = measure(stage.environment, stage.home, pairs, sagas)
    _write(out, {**summary, "load_average": os.getloadavg()})
    Console().print(sealing_table(summary))


def _deployments(families: Sequence[str]) -> list[Deployment]:
    """Make the deployments of trades asked for."""
    peers: dict[str, tuple[bool, Callable[[], Deployment]]] = {"trades-dbos": (has_dbos(), TradesOnDbos)}
    _report_missing(peers, families)
    known: dict[str, Deployment] = {"trades": SEPARATE, "trades-together": TOGETHER}
    known |= {name: peer() for name, (there, peer) in peers.items() if there and name in families}
    return [known[name] for name in TRADES if name in families and name in known]


def _report_missing(peers: Mapping[str, tuple[bool, object]], families: Sequence[str]) -> None:
    if left_out := [name for name, (there, _) in peers.items() if name in families and not there]:
        Console(stderr=True).print(f"not installed, and so left out: {', '.join(left_out)}; run `make bench-peers`")


def _chosen(families: Sequence[str], *, alone: bool) -> list[System]:
    """Make the systems asked for; peers that are not installed are left out, and that is told."""
    peers: dict[str, tuple[bool, Callable[[], System]]] = {
        "dbos": (has_dbos(), Dbos),
        "restate": (has_restate(), Restate),
        "temporal": (has_temporal(), Temporal),
    }
    _report_missing(peers, families)
    known: dict[str, Sequence[System]] = {"floor": (FLOOR,), "product": (PRODUCT,), "variants": VARIANTS}
    known |= {name: (peer(),) for name, (there, peer) in peers.items() if there and name in families}
    chosen = [system for family in FAMILIES if family in families for system in known.get(family, ())]
    if not chosen and alone:
        raise typer.BadParameter("none of the systems asked for is installed")
    return chosen


def _compare(systems: Sequence[System], plan: Plan, out: Path) -> tuple[dict[str, Any], bool]:
    """Measure, draw, and return the figures, and whether every saga of every load ended as it should, once."""
    log, console = Console(stderr=True), Console()
    with servers() as stage:
        machine = describe(stage)
        samples = compare(stage, systems, plan, log.print)
        machine["exports_of_spans"] = stage.sink.exports
    figures, settings = figures_of(samples), {system.name: system.settings for system in systems}
    for figure in figures:
        figure["settings"] = settings[figure["system"]]
    ratios = ratios_of(figures)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".svg").write_text(draw(figures))
    (Console(width=200) if not console.is_terminal else console).print(table_of(figures))
    for name, ratio in ratios.items():
        console.print(f"tradesaga is at {ratio:.2f} times the rate of {name}", highlight=False)
    results = {"machine": machine, "plan": plan._asdict(), "ratios": ratios, "figures": figures}
    return results, all(figure.get("as_wanted", True) for figure in figures)


def _write(out: Path, figures: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    # Otherwise `timeout` and `kill` would leave servers and services running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    typer.run(main)
