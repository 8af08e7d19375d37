"""One, two and four processes of each service on a network with delays; what 1,000 and 100,000 sagas a second take.

`make scale-out` measures, prints, and writes `build/scale-out.json`; with `--model` nothing is measured. With `--model`
or `--keep` a simulation checks the model. Exits with 1 when a saga was lost or done twice, or a check fails.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError
from rich.console import Console

from tests.benchmarks.machine import describe
from tests.benchmarks.scale_out.checks import Check, check
from tests.benchmarks.scale_out.costs import MEASURED, Measured, Prices, Site, read_measured
from tests.benchmarks.scale_out.fitting import costs_of
from tests.benchmarks.scale_out.picture import draw
from tests.benchmarks.scale_out.report import efficiencies
from tests.benchmarks.scale_out.runs import Plan, Run, measure
from tests.benchmarks.scale_out.sheet import Sheet, renew
from tests.benchmarks.scale_out.stage import servers
from tests.benchmarks.scale_out.tables import DOCUMENT, sheets

PICTURE: Final = Path("docs/images/scaling.svg")
EXAMPLES: Final = """
Examples:\n
  make scale-out                                            measure: about seven minutes\n
  make scale-out ARGS="--rounds 1 --sagas 400 --workers 1,2"   smoke run\n
  make scale-out ARGS=--model                               the model and its simulation: seconds, no servers\n
  make scale-out ARGS="--model --costs build/scale-out.json"   the same with the costs of the last run\n
  make scale-out ARGS=--keep                                measure, and update code and document\n
  make scale-out ARGS="--model --keep"                      rewrite the document's tables and picture\n
"""


def main(
    *,
    model: Annotated[bool, typer.Option("--model", help="Measure nothing: print the model and its checks.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Write costs, and the tables of docs/scaling.md.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is written to the file.")] = False,
    costs: Annotated[Path | None, typer.Option(help="Costs for the model, from a run; default the kept ones.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured.")] = 2,
    sagas: Annotated[int, typer.Option(min=1, help="Sagas of one load flat out.")] = 4000,
    workers: Annotated[str, typer.Option(help="Processes of each service.")] = "1,2,4",
    delays: Annotated[str, typer.Option(help="Milliseconds that a byte takes, each way.")] = "1,5",
    bound: Annotated[int, typer.Option(min=1, help="Messages a batch at most, on the delayed network.")] = 50,
    rate: Annotated[int, typer.Option(min=1, help="Starts a second where batches are to be small.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long that rate is held.")] = 8.0,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("build/scale-out.json"),
) -> None:
    """Measure how the product scales out, and work out what a rate takes."""
    console = Console(stderr=as_json)
    console = console if console.is_terminal else Console(width=200, stderr=as_json)
    told: dict[str, Any] = {}
    if model:
        known = _known(costs)
    else:
        plan = Plan(rounds, sagas, _numbers(workers), _delays(delays), bound, rate, seconds)
        told = _measure(plan)
        known = Measured.model_validate(told)
    checks = check(known.costs, Site()) if model or keep else []
    if checks:
        told["checks"] = [each.__dict__ | {"ratio": each.ratio, "holds": each.holds} for each in checks]
    tables = sheets(known, Site(), Prices(), checks)
    told["tables"] = {name: sheet._asdict() for name, sheet in tables.items()}
    _show(console, tables)
    if not model:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(told, indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps(told, indent=2))
    if keep:
        _keep(known, checks)
    if not (all(each.holds for each in checks) and told.get("as_wanted", True)):
        raise typer.Exit(1)


def _numbers(text: str) -> list[int]:
    if not all(part.isdecimal() and int(part) for part in text.split(",")):
        raise typer.BadParameter(f"{text}: give whole numbers above 0, separated by commas")
    return [int(part) for part in text.split(",")]


def _delays(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text}: give milliseconds, separated by commas") from error
    if not all(0 <= each <= 1000 for each in found):
        raise typer.BadParameter(f"{text}: give milliseconds from 0 to 1000")
    return found


def _known(path: Path | None) -> Measured:
    if path is None:
        return read_measured()
    try:
        return read_measured(path)
    except FileNotFoundError as error:
        raise typer.BadParameter(f"{path} is not there: run `make scale-out` first") from error
    except ValidationError as error:
        raise typer.BadParameter(f"{path} was not written by `make scale-out`: {error}") from error


def _measure(plan: Plan) -> dict[str, Any]:
    log = Console(stderr=True)
    with servers() as rig:
        machine = {key: value for key, value in describe(rig.stage).items() if key != "load_average_before"}
        before = os.getloadavg()
        runs = measure(rig, plan, log.print)
    costs = costs_of(runs, {**machine, "sagas": plan.sagas, "rounds": plan.rounds, "load_average": list(before)})
    return {
        "machine": machine,
        "plan": plan._asdict(),
        "as_wanted": _as_wanted(runs),
        "efficiency": efficiencies(runs, costs),
        "costs": costs.model_dump(),
        "runs": runs,
    }


def _as_wanted(runs: Sequence[Run]) -> bool:
    return all(run["counts"]["completed"] == run["sagas"] and not run["counts"]["duplicated"] for run in runs)


def _show(console: Console, tables: Mapping[str, Sheet]) -> None:
    for sheet in tables.values():
        if sheet.rows:
            console.print(sheet.table)


def _keep(measured: Measured, checks: Sequence[Check]) -> None:
    """Write what the code, the document and its picture take from a measurement."""
    MEASURED.write_text(measured.model_dump_json(indent=2) + "\n")
    DOCUMENT.write_text(renew(DOCUMENT.read_text(), sheets(measured, Site(), Prices(), checks)))
    PICTURE.write_text(draw(measured.costs, Site()))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog=EXAMPLES)(main)
    app()
