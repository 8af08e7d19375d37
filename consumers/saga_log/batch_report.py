"""Metrics and log lines of a committed batch."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import structlog

from tradesaga.consumers.saga_log.fold import FoldResult
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import SagaSnapshot
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.facts import Meaning
from tradesaga.sagas.status import Status

_LOGGED: Final = 20
"""Parked and dead records that one batch logs one by one; the others are only counted."""
_ENDED: Final = frozenset({Status.COMPLETED, Status.ABORTED, Status.FAILED})


def report_batch(rules: Rules, group: str, outcomes: Sequence[FoldResult]) -> None:
    """Update the metrics of a committed batch, and log what an operator should look at."""
    name = rules.saga.name
    facts: Counter[str] = Counter()
    troubles = 0
    for outcome in outcomes:
        facts[_result(outcome)] += 1
        if outcome.parked is not None or outcome.dead or outcome.released:
            _count_trouble(group, outcome)
            troubles += 1
            if troubles <= _LOGGED:
                _report_trouble(outcome)
        if outcome.fact is not None:
            _report_fact(rules, outcome, outcome.fact.meaning)
    for result, count in facts.items():
        metrics.FACTS.labels(name, result).inc(count)
    if troubles > _LOGGED:
        left = troubles - _LOGGED
        structlog.get_logger("saga-log").error("more records were parked or copied", count=left, where="audit log")


def _result(outcome: FoldResult) -> str:
    if outcome.parked is not None:
        return "parked"
    return "recorded" if outcome.refused or outcome.fact is None or outcome.entry.seq is None else "counted"


def _report_fact(rules: Rules, outcome: FoldResult, meaning: Meaning) -> None:
    name = rules.saga.name
    if meaning.by_operator:
        _report_decision(rules, outcome, meaning)
    snapshot = outcome.tracked.snapshot if outcome.tracked is not None else None
    if snapshot is None:
        return
    if outcome.before is None:
        metrics.SAGAS_STARTED.labels(name).inc()
    if meaning is Meaning.DEADLINE:
        phase = "after" if rules.under(snapshot.version).machine.passed(snapshot.state) else "before"
        metrics.DEADLINES_EXCEEDED.labels(name, phase).inc()
        _log(rules, outcome).warning("deadline elapsed", pivot=phase, state=snapshot.status.value)
    if snapshot.status is not outcome.before and snapshot.status in _ENDED:
        _report_end(rules, outcome, snapshot)


def _report_decision(rules: Rules, outcome: FoldResult, meaning: Meaning) -> None:
    result = "refused" if outcome.refused else "taken"
    metrics.OPERATOR_FACTS.labels(rules.saga.name, meaning.value, result).inc()
    _log(rules, outcome).info("operator decided", decision=meaning.value, result=result, why=outcome.entry.error)


def _report_end(rules: Rules, outcome: FoldResult, snapshot: SagaSnapshot) -> None:
    name, status = rules.saga.name, snapshot.status
    metrics.SAGAS_ENDED.labels(name, status.value).inc()
    seconds = max(0, snapshot.updated_ms - snapshot.created_ms) / 1000
    metrics.SAGA_SECONDS.labels(name, status.value).observe(seconds)
    if status is Status.FAILED:
        metrics.SAGAS_FAILED_ALERT.labels(name).inc()
        own = rules.under(snapshot.version)
        stands, why = own.stands(snapshot.state), own.cause(snapshot.state)
        _log(rules, outcome).error("saga failed: a person is needed", stands=stands, why=why)


def _count_trouble(group: str, outcome: FoldResult) -> None:
    if outcome.parked is not None:
        metrics.PARKED.labels(group).inc()
    for letter in outcome.dead:
        metrics.DEAD_LETTERS.labels(group, letter.kind).inc()
    for released in outcome.released:
        metrics.RELEASED.labels(group, released.action).inc()


def _report_trouble(outcome: FoldResult) -> None:
    record = outcome.record
    log = structlog.get_logger("saga-log").bind(
        saga_id=str(outcome.tracked.saga_id) if outcome.tracked is not None else None,
        place=f"{record.topic}[{record.partition}]@{record.offset}",
    )
    if outcome.parked is not None:
        log.warning("record parked", why=outcome.parked.reason)
    for letter in outcome.dead:
        log.error("record copied to the dead letters", kind=letter.kind, why=letter.reason)
    for released in outcome.released:
        log.info("parked record released", action=released.action, offset=released.parked.record.offset)


def _log(rules: Rules, outcome: FoldResult) -> structlog.stdlib.BoundLogger:
    saga_id = str(outcome.tracked.saga_id) if outcome.tracked is not None else None
    return structlog.get_logger("saga-log").bind(saga=rules.saga.name, saga_id=saga_id)
