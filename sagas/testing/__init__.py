"""Test kit for sagas: scenarios, any order and repetition of facts, crashes at any point, compensations."""

from tradesaga.sagas.testing.crashes import Outcome, survives_crashes
from tradesaga.sagas.testing.facts import (
    GivenFact,
    aborted,
    assert_compensation_restores,
    attempt_failed,
    barred,
    compensation_failed,
    contradicted,
    failed,
    rechecked,
    resolved,
    retried,
    skipped,
    unknown,
    unowned,
)
from tradesaga.sagas.testing.in_memory_run import InMemoryRun, InMemoryStep
from tradesaga.sagas.testing.scenario import Scenario, given

__all__ = [
    "GivenFact",
    "InMemoryRun",
    "InMemoryStep",
    "Outcome",
    "Scenario",
    "aborted",
    "assert_compensation_restores",
    "attempt_failed",
    "barred",
    "compensation_failed",
    "contradicted",
    "failed",
    "given",
    "rechecked",
    "resolved",
    "retried",
    "skipped",
    "survives_crashes",
    "unknown",
    "unowned",
]
