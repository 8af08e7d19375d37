"""A test kit for anybody's saga: scenarios, any order and repeats, crashes anywhere, and taking back what was done."""

from tradesaga.sagas.testing.crashes import Outcome, survives_crashes
from tradesaga.sagas.testing.facts import (
    Happening,
    aborted,
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
from tradesaga.sagas.testing.identity import restores
from tradesaga.sagas.testing.in_memory_run import Part, Rehearsal
from tradesaga.sagas.testing.scenario import Scenario, given

__all__ = [
    "Happening",
    "Outcome",
    "Part",
    "Rehearsal",
    "Scenario",
    "aborted",
    "attempt_failed",
    "barred",
    "compensation_failed",
    "contradicted",
    "failed",
    "given",
    "rechecked",
    "resolved",
    "restores",
    "retried",
    "skipped",
    "survives_crashes",
    "unknown",
    "unowned",
]
