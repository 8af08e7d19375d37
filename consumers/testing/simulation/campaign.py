"""Many schedules, side by side in several processes, and what they came to in all."""

import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from tradesaga.consumers.testing.simulation.schedule import Result, run, shorten
from tradesaga.consumers.testing.simulation.simulated_saga import Subject
from tradesaga.infra.errors import CommandError, ExitCode

SAMPLES: Final = (
    "tradesaga.consumers.testing.simulation.samples:order",
    "tradesaga.consumers.testing.simulation.samples:pair",
)
CHUNK: Final = 25
"""Schedules that a process takes at once."""
SHOWN: Final = 3
"""Failing schedules that are shortened and told; the others are only named."""


@dataclass
class Tally:
    """What a campaign has come to; `failures` are results whose faults have been left out as far as they can be."""

    hits: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    figures: Counter[str] = field(default_factory=Counter[str])
    failures: list[Result] = field(default_factory=list[Result])
    failed_seeds: list[int] = field(default_factory=list[int])
    schedules: int = 0
    seconds: float = 0.0
    least_faults: int = 1_000_000

    def add(self, results: Sequence[Result]) -> None:
        """Count results in."""
        for result in results:
            self.schedules += 1
            self.hits.update(result.hits)
            self.figures.update(result.figures)
            self.least_faults = min(self.least_faults, result.hits.total())
            if result.violations:
                self.failed_seeds.append(result.seed)


def find_subject(path: str) -> Subject:
    """Return the subject at `module:attribute`. Raises `CommandError` (exit 3) when there is none."""
    module, _, name = path.partition(":")
    do = "give it as module:attribute, naming a tradesaga.consumers.testing.simulation.Subject"
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CommandError("subject-missing", f"nothing to simulate: {error}", path, do, ExitCode.NOT_FOUND) from error
    if not isinstance(found, Subject):
        what = f"{name} is a {type(found).__name__}, not a Subject"
        raise CommandError("subject-missing", what, path, do, ExitCode.NOT_FOUND)
    return found


def choose(paths: Sequence[str], seed: int) -> Subject:
    """Return the subject whose turn it is at this seed."""
    return find_subject(paths[seed % len(paths)])


def run_chunk(paths: Sequence[str], seeds: Sequence[int]) -> list[Result]:
    """Run some schedules one after the other."""
    return [run(choose(paths, seed), seed) for seed in seeds]


def run_many(paths: Sequence[str], first: int, count: int, processes: int) -> Tally:
    """Run `count` schedules from seed `first` on."""
    began, tally = monotonic(), Tally()
    chunks = [range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK)]
    for path in paths:
        find_subject(path)
    for results in _spread(paths, chunks, processes):
        tally.add(results)
    tally.seconds = monotonic() - began
    for seed in sorted(tally.failed_seeds)[:SHOWN]:
        subject = choose(paths, seed)
        tally.failures.append(shorten(subject, run(subject, seed)))
    return tally


def _spread(paths: Sequence[str], chunks: Sequence[range], processes: int) -> Iterator[list[Result]]:
    if processes == 1:
        for chunk in chunks:
            yield run_chunk(paths, chunk)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(run_chunk, [paths] * len(chunks), chunks)
