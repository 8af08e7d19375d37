"""`tradesaga simulate`: many schedules in several processes, and the report on them."""

import importlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from string import ascii_lowercase
from time import monotonic
from typing import Annotated, Final

import typer

from tradesaga.consumers.testing.simulation.fault_actions import CELLS, FAULTS
from tradesaga.consumers.testing.simulation.samples import SimulatedSaga
from tradesaga.consumers.testing.simulation.schedule import Result, run, shorten
from tradesaga.infra.cli.console import AsJson, print_result
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.failpoints import Failpoint

SAMPLES: Final = (
    "tradesaga.consumers.testing.simulation.samples:order",
    "tradesaga.consumers.testing.simulation.samples:pair",
)

CHUNK: Final = 25
"""Number of schedules that a process runs at once."""
_TRACE_LINES: Final = 400
_WIDTH: Final = 6
SHOWN: Final = 3
"""Number of failing schedules that are shortened and described; of the others the report has only the seeds."""


@dataclass
class Tally:
    """Totals of many schedules. `failures` are failing schedules with as few faults as possible."""

    hits: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    figures: Counter[str] = field(default_factory=Counter[str])
    failures: list[Result] = field(default_factory=list[Result])
    failed_seeds: list[int] = field(default_factory=list[int])
    schedules: int = 0
    seconds: float = 0.0
    least_faults: int = 1_000_000

    def add(self, results: Sequence[Result]) -> None:
        """Add results."""
        for result in results:
            self.schedules += 1
            self.hits.update(result.hits)
            self.figures.update(result.figures)
            self.least_faults = min(self.least_faults, result.hits.total())
            if result.violations:
                self.failed_seeds.append(result.seed)


def find_simulated_saga(path: str) -> SimulatedSaga:
    """Return the `SimulatedSaga` at `module:attribute`. Raises `CommandError` (exit 3) if there is none."""
    module, _, name = path.partition(":")
    do = "give it as module:attribute, naming a tradesaga.consumers.testing.simulation.SimulatedSaga"
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CommandError("subject-missing", f"no saga to simulate: {error}", path, do, ExitCode.NOT_FOUND) from error
    if not isinstance(found, SimulatedSaga):
        what = f"{name} is a {type(found).__name__}, not a SimulatedSaga"
        raise CommandError("subject-missing", what, path, do, ExitCode.NOT_FOUND)
    return found


def choose(paths: Sequence[str], seed: int) -> SimulatedSaga:
    """Return the saga of a seed: seeds take turns over the paths."""
    return find_simulated_saga(paths[seed % len(paths)])


def run_chunk(paths: Sequence[str], seeds: Sequence[int]) -> list[Result]:
    """Run schedules one after the other."""
    return [run(choose(paths, seed), seed) for seed in seeds]


def run_many(paths: Sequence[str], first: int, count: int, processes: int) -> Tally:
    """Run `count` schedules, beginning at seed `first`."""
    began, tally = monotonic(), Tally()
    chunks = [range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK)]
    for path in paths:
        find_simulated_saga(path)
    with ProcessPoolExecutor(processes) if processes > 1 else nullcontext() as pool:
        for results in (pool.map if pool is not None else map)(partial(run_chunk, paths), chunks):
            tally.add(results)
    tally.seconds = monotonic() - began
    for seed in sorted(tally.failed_seeds)[:SHOWN]:
        simulated = choose(paths, seed)
        tally.failures.append(shorten(simulated, run(simulated, seed)))
    return tally


def describe(tally: Tally) -> Iterator[str]:
    """Return the lines of the report: the table of faults, the figures, and the failures."""
    yield from describe_hits(tally)
    yield ""
    yield ", ".join(f"{count} {name}" for name, count in sorted(tally.figures.items()))
    rate = tally.schedules / tally.seconds if tally.seconds else 0
    failed = len(tally.failed_seeds)
    yield f"{tally.schedules} schedules in {tally.seconds:.1f} s ({rate:.0f} per second), {failed} failed"
    for result in tally.failures:
        yield ""
        yield from describe_failure(result)
    if len(tally.failed_seeds) > len(tally.failures):
        yield f"further failing seeds: {sorted(tally.failed_seeds)[len(tally.failures) :]}"


def describe_hits(tally: Tally) -> Iterator[str]:
    """Return a table of how often each kind of fault has occurred at each failpoint."""
    letters = ascii_lowercase[: len(Failpoint)]
    for letter, failpoint in zip(letters, Failpoint, strict=True):
        yield f"  {letter} {failpoint}"
    yield f"{'':18}" + "".join(f"{letter:>{_WIDTH}}" for letter in letters)
    for kind in FAULTS:
        yield f"{kind:18}" + "".join(f"{tally.hits[failpoint, kind]:{_WIDTH}}" for failpoint in Failpoint)


def missed(tally: Tally) -> list[str]:
    """Return the pairs of failpoint and kind of fault that never occurred."""
    return [f"{kind} at {failpoint}" for failpoint, kind in CELLS if not tally.hits[failpoint, kind]]


def describe_failure(result: Result) -> Iterator[str]:
    """Return the lines on one failing seed: how to reproduce it, its violations, faults and trace."""
    yield f"seed {result.seed} fails; reproduce it with: tradesaga simulate --seed {result.seed}"
    yield from (f"  {violation}" for violation in result.violations)
    yield f"  with {len(result.faults)} faults:"
    yield from (f"    {fault}" for fault in result.faults)
    lines = result.trace[-_TRACE_LINES:]
    if len(lines) < len(result.trace):
        yield f"  the last {len(lines)} of {len(result.trace)} lines of its trace:"
    yield from (f"  {line}" for line in lines)


def as_dict(tally: Tally) -> dict[str, object]:
    """Return the report for `--json`."""
    return {
        "schedules": tally.schedules,
        "seconds": round(tally.seconds, 3),
        "failed": sorted(tally.failed_seeds),
        "figures": dict(tally.figures),
        "hits": {f"{failpoint} x {kind}": tally.hits[failpoint, kind] for failpoint, kind in CELLS},
        "failures": [
            {
                "seed": result.seed,
                "violations": list(result.violations),
                "faults": [str(fault) for fault in result.faults],
                "trace": list(result.trace),
            }
            for result in tally.failures
        ],
    }


Sagas = Annotated[list[str] | None, typer.Option("--saga", help="module:attribute of a SimulatedSaga; may be repeated")]


def simulate(
    *,
    seed: Annotated[int | None, typer.Option(min=0, help="Run only the schedule of this seed.")] = None,
    schedules: Annotated[int, typer.Option(min=1, help="Number of schedules.")] = 1000,
    first: Annotated[int, typer.Option(min=0, help="Seed of the first schedule.")] = 0,
    processes: Annotated[int, typer.Option(min=0, help="Worker processes; 0 for one per core.")] = 0,
    saga: Sagas = None,
    trace: Annotated[bool, typer.Option("--trace", help="With --seed: always print the whole trace.")] = False,
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
        lines.append(
            f"seed {seed} passes: {result.hits.total()} faults, {len(result.trace)} trace lines, {result.hash[:16]}"
        )
    return tally, lines
