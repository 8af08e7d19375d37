"""Looking for what finds a mutant: schedules one after the other, and what the real servers say."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.mutants.catalogue import Mutant
from tradesaga.consumers.testing.simulation.campaign import SAMPLES, choose
from tradesaga.consumers.testing.simulation.processes import rules_of
from tradesaga.consumers.testing.simulation.schedule import run

MOST = 600
"""Seeds after which a mutant counts as escaped."""


@dataclass(frozen=True)
class Catch:
    """The seed that found a mutant, and by what; no seed if none did."""

    name: str
    seed: int | None
    evidence: str
    seconds: float


def hunt(mutant: Mutant, most: int = MOST) -> Catch:
    """Run schedules with the mutant planted until one breaks; those that are known to, first."""
    began = time.monotonic()
    rules_of.cache_clear()  # a machine remembers what facts came to, by the code of then
    with mutant.plant():
        for seed in (*mutant.seeds, *range(most)):
            result = run(choose(SAMPLES, seed), seed)
            if result.violations:
                return Catch(mutant.name, seed, result.violations[0], time.monotonic() - began)
    return Catch(mutant.name, None, f"escaped {most} schedules", time.monotonic() - began)


def control(catches: Sequence[Catch]) -> Catch:
    """Run the schedules that found the mutants on the code as it is shipped."""
    began = time.monotonic()
    rules_of.cache_clear()
    for seed in sorted({catch.seed for catch in catches if catch.seed is not None}):
        result = run(choose(SAMPLES, seed), seed)
        if result.violations:
            return Catch("shipped code", seed, result.violations[0], time.monotonic() - began)
    return Catch("shipped code", None, "holds on every one of these seeds", time.monotonic() - began)
