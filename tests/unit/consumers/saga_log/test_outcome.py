"""What the saga log counts, and what it calls a person for."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
import structlog
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.sagas import Filled, Held, Partition, Placed, Settled, small_saga
from tradesaga.consumers.saga_log.batch_report import report_batch
from tradesaga.consumers.saga_log.fold import FoldResult, fold_record
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.schemas.messages.lifecycle import (
    AbortRequested,
    CompensationFailed,
    DeadlineElapsed,
    RetryRequested,
    StepFailed,
)
from tradesaga.schemas.messages.message import Event

GROUP = "counted-log"


@pytest.fixture
def rules() -> Rules:
    """Give the rules of a saga whose figures no other test moves."""
    return Rules(small_saga(f"counted-{uuid4().hex[:8]}"))


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    """Give what is logged."""
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


def happen(rules: Rules, *events: Event) -> list[FoldResult]:
    """Fold a start and these events, and count them."""
    partition = Partition(rules.saga)
    tracked: Tracked | None = Tracked(partition.saga_id, rules.home(partition.saga_id))
    outcomes: list[FoldResult] = []
    late = rules.deadline_ms + 1000  # what is said after the start comes when a deadline counts
    others = [partition.record(event) for event in events]
    for record in (partition.start(), *(each._replace(recorded_ms=each.recorded_ms + late) for each in others)):
        outcomes.append(fold_record(rules, tracked, record))
        tracked = outcomes[-1].tracked
    report_batch(rules, GROUP, outcomes)
    return outcomes


def figure(rules: Rules, name: str, **labels: str) -> float:
    """Read a counter of the saga."""
    return REGISTRY.get_sample_value(f"tradesaga_{name}", {"saga": rules.saga.name, **labels}) or 0.0


def test_a_completed_saga_is_counted_once(rules: Rules) -> None:
    """One start, one end, its time; repeats after the end count as facts alone."""
    happen(rules, Held(), Placed(), Filled(), Settled(), Settled())
    assert figure(rules, "sagas_started_total") == 1
    assert figure(rules, "sagas_ended_total", outcome="COMPLETED") == 1
    assert figure(rules, "saga_seconds_count", outcome="COMPLETED") == 1
    assert figure(rules, "facts_total", result="counted") == 6
    assert figure(rules, "sagas_failed_alert_total") == 0


def test_a_failed_saga_calls_for_a_person(rules: Rules, lines: list[EventDict]) -> None:
    """The alert counts, and the log says what stands and why it should not."""
    happen(
        rules,
        Held(),
        StepFailed(step="place", attempts=3, reason="no"),
        CompensationFailed(step="hold", attempts=9, reason="locked"),
    )
    assert figure(rules, "sagas_failed_alert_total") == 1
    (line,) = [line for line in lines if line["log_level"] == "error"]
    assert line["stands"] == "done and not compensated: hold; will not happen: place"
    assert line["why"] == "failed: place"


def test_a_deadline_counts_by_where_it_came(rules: Rules) -> None:
    """Before the pivot it takes back; after it, it only counts."""
    before = happen(rules, Held(), DeadlineElapsed(deadline=""))
    after = happen(rules, Held(), Placed(), Filled(), DeadlineElapsed(deadline=""))
    assert figure(rules, "deadlines_exceeded_total", phase="before") == 1
    assert figure(rules, "deadlines_exceeded_total", phase="after") == 1
    assert before[-1].orders
    assert not after[-1].orders


def test_decisions_count_as_taken_or_refused(rules: Rules) -> None:
    """Each with its name."""
    happen(
        rules,
        RetryRequested(operator="ann", reason="x", step="settle"),
        AbortRequested(operator="ann", reason="x"),
    )
    assert figure(rules, "operator_facts_total", fact="retry", result="refused") == 1
    assert figure(rules, "operator_facts_total", fact="abort", result="taken") == 1


def test_a_flood_of_poison_is_counted_not_told(rules: Rules, lines: list[EventDict]) -> None:
    """A thousand unreadable records of one batch make a thousand figures and a few lines."""
    partition = Partition(rules.saga)
    before = REGISTRY.get_sample_value("tradesaga_dead_letters_total", {"group": GROUP, "reason": "no-saga"}) or 0.0
    report_batch(rules, GROUP, [fold_record(rules, None, partition.raw(b"", [])) for _ in range(1000)])
    told = REGISTRY.get_sample_value("tradesaga_dead_letters_total", {"group": GROUP, "reason": "no-saga"}) or 0.0
    assert told - before == 1000
    assert len(lines) == 21
    assert lines[-1]["count"] == 980
