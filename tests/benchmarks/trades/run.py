"""The real trade on servers of its own: rounds of all deployments, or the search for the rate that each sustains."""

from collections.abc import Sequence
from typing import Any

import uvloop
from rich.console import Console

from tests.benchmarks.machine import describe
from tests.benchmarks.rounds import in_rounds
from tests.benchmarks.stage import Stage, servers
from tests.benchmarks.trades.accounts import find_differences
from tests.benchmarks.trades.deployment import IDLE, Deployment
from tests.benchmarks.trades.figures import figures_of, idle_of, sustained_of
from tests.benchmarks.trades.measuring import Differences, Idle, TradeSample, measure
from tests.benchmarks.trades.plan import TradePlan
from tests.benchmarks.trades.report import costs_table, processes_table, results_table, sustained_table
from tests.benchmarks.trades.sustained import find_sustained


def compare_trades(deployments: Sequence[Deployment], plan: TradePlan) -> dict[str, Any]:
    """Measure the rounds, check all money and records, print the tables, and return the figures."""
    with servers(statements=True) as stage:
        machine = describe(stage)
        say = Console(stderr=True).print
        samples = in_rounds(deployments, plan.rounds, plan.budget, lambda each: measure(stage, each, plan), say)
        differences = [found for each in samples if isinstance(each, Differences) for found in each.found]
        differences += _check(stage)
    figures = figures_of(sample for sample in samples if isinstance(sample, TradeSample))
    idle = idle_of(sample for sample in samples if isinstance(sample, Idle))
    console = _console()
    console.print(results_table(figures))
    console.print(costs_table(idle, figures))
    for deployment in deployments:
        console.print(processes_table(idle, figures, deployment.name))
    as_wanted = not differences and all(figure["as_wanted"] for figure in figures)
    return _settings(deployments, machine) | {
        "plan": plan._asdict(), "idle": idle, "figures": figures, "differences": differences, "as_wanted": as_wanted,
    }  # fmt: skip


def find_highest(deployments: Sequence[Deployment], seconds: float, budget: float) -> dict[str, Any]:
    """Search for the rate that each deployment sustains, print the tables, and return the figures."""
    with servers(statements=True) as stage:
        machine = describe(stage)
        share = budget / len(deployments)
        found = [sustained_of(find_sustained(stage, each, seconds, share)) for each in deployments]
        differences = _check(stage)
    _console().print(sustained_table(found))
    # A rate that was too high may have had trades refused, but none failed, lost or doubled.
    as_wanted = not differences and all(rate["as_wanted"] for search in found for rate in search["tried"])
    return _settings(deployments, machine) | {
        "seconds": seconds, "sustained": found, "differences": differences, "as_wanted": as_wanted,
    }  # fmt: skip


def _check(stage: Stage) -> list[str]:
    with IDLE.running(stage):
        differences = uvloop.run(find_differences(stage))
    for difference in differences:
        Console(stderr=True).print(difference, highlight=False)
    return differences


def _settings(deployments: Sequence[Deployment], machine: dict[str, Any]) -> dict[str, Any]:
    return {"machine": machine, "settings": {each.name: each.settings for each in deployments}}


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=200)
