"""`tradesaga simulate`."""

import os
from typing import Annotated

import typer

from tradesaga.consumers.testing.simulation.campaign import (
    SAMPLES,
    Tally,
    as_dict,
    choose,
    describe,
    describe_failure,
    run_many,
)
from tradesaga.consumers.testing.simulation.schedule import run, shorten
from tradesaga.infra.cli.options import AsJson
from tradesaga.infra.cli.output import print_result
from tradesaga.infra.errors import ExitCode

Sagas = Annotated[list[str] | None, typer.Option("--saga", help="module:attribute of a SimulatedSaga; may be repeated")]


def simulate(
    *,
    seed: Annotated[int | None, typer.Option(min=0, help="Run this schedule alone, exactly as before.")] = None,
    schedules: Annotated[int, typer.Option(min=1, help="Number of schedules.")] = 1000,
    first: Annotated[int, typer.Option(min=0, help="Seed of the first schedule.")] = 0,
    processes: Annotated[int, typer.Option(min=0, help="Worker processes; 0 for one per core.")] = 0,
    saga: Sagas = None,
    trace: Annotated[bool, typer.Option("--trace", help="With --seed: print the whole trace, failed or not.")] = False,
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
    simulated = choose(paths, seed)
    result, tally = run(simulated, seed, traced=trace), Tally()
    tally.add([result])
    lines = [*result.trace] if trace else []
    if result.violations:
        tally.failures.append(shorten(simulated, result))
        lines += describe_failure(tally.failures[0])
    else:
        lines.append(f"seed {seed} holds: {result.hits.total()} faults, {len(result.trace)} lines, {result.hash[:16]}")
    return tally, lines
