"""`tradesaga simulate`."""

import os
from typing import Annotated

import typer

from tradesaga.consumers.testing.simulation.campaign import SAMPLES, Tally, choose, run_many
from tradesaga.consumers.testing.simulation.report import as_dict, describe, describe_failure
from tradesaga.consumers.testing.simulation.schedule import run, shorten
from tradesaga.infra.cli.options import AsJson
from tradesaga.infra.cli.output import print_result
from tradesaga.infra.errors import ExitCode

Sagas = Annotated[list[str] | None, typer.Option("--saga", help="module:attribute of a Subject; may be repeated")]


def simulate(
    *,
    seed: Annotated[int | None, typer.Option(min=0, help="run this schedule alone, as it was run before")] = None,
    schedules: Annotated[int, typer.Option(min=1, help="how many to run")] = 1000,
    first: Annotated[int, typer.Option(min=0, help="the seed of the first one")] = 0,
    processes: Annotated[int, typer.Option(min=0, help="processes to run them in; 0 for one a core")] = 0,
    saga: Sagas = None,
    trace: Annotated[bool, typer.Option("--trace", help="with --seed: tell all that happened, failed or not")] = False,
    as_json: AsJson = False,
) -> int:
    """Run the step path against simulated Kafka, PostgreSQL and far side, with seeded faults; exit 1 if it fails.

    Example: `tradesaga simulate --schedules 1000`
    """
    paths = tuple(saga or SAMPLES)
    if seed is not None:
        tally, lines = _replay(paths, seed, trace=trace)
    else:
        tally = run_many(paths, first, schedules, processes or os.cpu_count() or 1)
        lines = list(describe(tally))
    print_result(as_dict(tally), "\n".join(lines), as_json=as_json)
    return ExitCode.CHECK_FAILED if tally.failed_seeds else ExitCode.FINE


def _replay(paths: tuple[str, ...], seed: int, *, trace: bool) -> tuple[Tally, list[str]]:
    subject = choose(paths, seed)
    result, tally = run(subject, seed, traced=trace), Tally()
    tally.add([result])
    lines = [*result.trace] if trace else []
    if result.violations:
        tally.failures.append(shorten(subject, result))
        lines += describe_failure(tally.failures[0])
    else:
        lines.append(f"seed {seed} holds: {result.hits.total()} faults, {len(result.trace)} lines, {result.hash[:16]}")
    return tally, lines
