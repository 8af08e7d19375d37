"""Every metric, named once. Labels are definitions (saga, step, group), never sagas, accounts or orders.

`steps_executed` counts answers of the forward direction; the attempts, retries and compensations have their own.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tradesaga.infra.telemetry.worker_health import Health

_FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONG: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)

# Steps, counted by those who run them.
STEPS_EXECUTED = Counter(
    "tradesaga_steps_executed",
    "Steps that answered; result is done, refused, failed, unknown or barred",
    ("saga", "step", "result"),
)
STEP_ATTEMPTS_FAILED = Counter(
    "tradesaga_step_attempts_failed",
    "Attempts that failed; direction is forward or back",
    ("saga", "step", "direction"),
)
STEP_RETRIES = Counter(
    "tradesaga_step_retries", "Attempts after the first; direction is forward or back", ("saga", "step", "direction")
)
STEPS_COMPENSATED = Counter(
    "tradesaga_steps_compensated",
    "Compensations that answered; result is compensated or failed",
    ("saga", "step", "result"),
)
STEP_SECONDS = Histogram(
    "tradesaga_step_seconds", "From an attempt's start to its answer", ("saga", "step", "result"), buckets=_FAST
)
VENUE_REPORTS = Counter(
    "tradesaga_venue_reports",
    "Reports of the venue; result is published or foreign (no order of ours)",
    ("venue", "result"),
)
DISCREPANCIES = Gauge(
    "tradesaga_discrepancies", "What venue, book and sagas disagreed in when they were last compared", ("venue", "flaw")
)
CONTRADICTIONS = Counter(
    "tradesaga_contradictions", "Outside facts that contradict what a step has answered", ("saga", "step")
)

# Sagas, counted by the saga log.
SAGAS_STARTED = Counter("tradesaga_sagas_started", "Sagas whose start was recorded", ("saga",))
SAGAS_ENDED = Counter(
    "tradesaga_sagas_ended",
    "Sagas that reached COMPLETED, ABORTED or FAILED; one leaves FAILED again by a retry",
    ("saga", "outcome"),
)
SAGA_SECONDS = Histogram(
    "tradesaga_saga_seconds", "From the start's record to the last one, broker time", ("saga", "outcome"), buckets=_LONG
)
SAGAS_FAILED_ALERT = Counter(
    "tradesaga_sagas_failed_alert", "Sagas that came to need a person: something stands that should not", ("saga",)
)
DEADLINES_EXCEEDED = Counter(
    "tradesaga_deadlines_exceeded", "Sagas past their deadline; phase is before or after the pivot", ("saga", "phase")
)
STARTS = Counter(
    "tradesaga_starts", "Requests to start; result is accepted, same, conflict or invalid", ("saga", "result")
)
SIGNALS = Counter(
    "tradesaga_signals",
    "Signals judged, once for each account that follows the strategy; result is accepted, duplicate, or why refused",
    ("saga", "result"),
)
SIGNALS_RAISED = Counter("tradesaga_signals_raised", "Signals that strategies have published", ("strategy",))
FACTS = Counter(
    "tradesaga_facts", "Records the saga log wrote; result is counted, recorded or parked", ("saga", "result")
)
OPERATOR_FACTS = Counter(
    "tradesaga_operator_facts",
    "Decisions of people that were folded; result is taken or refused",
    ("saga", "fact", "result"),
)

STARTS_REFUSED = Counter(
    "tradesaga_starts_refused",
    "Starts that were not taken in; reason is queue (too many wait to be stored), in_flight or lag",
    ("saga", "reason"),
)
PIPELINE_LAG = Gauge(
    "tradesaga_pipeline_lag_records",
    "Records that a group has still to read, seen by those who take starts in",
    ("group",),
)

# Trouble with records.
CLOCK_ERROR = Gauge(
    "tradesaga_clock_error_seconds", "How far the sealing machine's clock may be off; NaN where nobody can tell"
)
CLOCK_OUTSIDE = Gauge(
    "tradesaga_clock_outside_tier",
    "1 while the sealing machine's clock may be further off than TRADESAGA_AUDIT_CLOCK_TIER allows, or nobody can tell",
)
UNSEALED = Gauge(
    "tradesaga_audit_unsealed_seconds",
    "How long the oldest record has waited for its seal, by the broker's time of it; it grows while nobody seals",
    ("saga",),
)
AUDIT_DIFFERENCES = Gauge(
    "tradesaga_audit_differences", "Fields in which topics and database differ, by the live auditor", ("saga",)
)
PARKED = Counter("tradesaga_parked", "Records set aside until a person releases them", ("group",))
RELEASED = Counter(
    "tradesaga_parked_released", "Parked records let go; action is retry or discard", ("group", "action")
)
DEAD_LETTERS = Counter("tradesaga_dead_letters", "Records copied to the dead letters", ("group", "reason"))

# The step path.
BATCH_SECONDS = Histogram(
    "tradesaga_batch_seconds",
    "One batch's judgement, until it is committed and handed to the producer",
    ("group",),
    buckets=_FAST,
)
BATCH_RECORDS = Histogram(
    "tradesaga_batch_records", "Records in a batch", ("group",), buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
)
OUTBOX_ROWS = Counter("tradesaga_outbox_rows", "Rows written to the outbox", ("group", "topic"))
SECOND_OWNERS = Counter(
    "tradesaga_second_owners", "Answers that another participant gave for a step of this one", ("group", "step")
)
LOOP_HELD_UP = Counter("tradesaga_loop_held_up", "Times that a function held up the event loop for 2 s", ("group",))
IN_FLIGHT = Gauge("tradesaga_handlers_in_flight", "Remote handlers that run now", ("group",))


class WorkerCollector(Collector):
    """Reads the workers' health when it is asked, so that the step path pays nothing for it."""

    def __init__(self) -> None:
        self.workers: dict[str, Health] = {}

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Give one family per figure, labelled by consumer group."""
        for name, attribute, text in _COUNTED:
            counted = CounterMetricFamily(f"tradesaga_worker_{name}", text, labels=("group",))
            for group, health in self.workers.items():
                counted.add_metric((group,), float(getattr(health, attribute)))
            yield counted
        for name, attribute, text in _GAUGED:
            gauged = GaugeMetricFamily(f"tradesaga_worker_{name}", text, labels=("group",))
            for group, health in self.workers.items():
                gauged.add_metric(
                    (group,), float(bool(value) if isinstance(value := getattr(health, attribute), str) else value)
                )
            yield gauged

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Name the families without values, so that registering reads no worker."""
        for name, _, text in _COUNTED:
            yield CounterMetricFamily(f"tradesaga_worker_{name}", text, labels=("group",))
        for name, _, text in _GAUGED:
            yield GaugeMetricFamily(f"tradesaga_worker_{name}", text, labels=("group",))


_COUNTED: Final = (
    ("batches", "batches", "Batches committed"),
    ("records", "records", "Records judged"),
    ("fenced_lanes", "fenced", "Lanes lost to another owner while they were in use"),
    ("restarts", "restarts", "Times the worker was in doubt and claimed its lanes anew"),
)
_GAUGED: Final = (
    ("lanes", "lanes", "Lanes owned now"),
    ("ready", "ready", "1 while the lanes are claimed"),
    ("halted", "halted", "1 while nothing is worked on until a person acts: /readyz says why"),
    ("lag_records", "lag", "Records of its partitions that the group has not passed, some seconds ago"),
    ("unpublished_rows", "unpublished", "Outbox rows that the broker has not acknowledged, some seconds ago"),
    ("lag_seconds", "lag_seconds", "Age of the oldest record that was fetched and is not dealt with"),
    ("poll_age_seconds", "poll_age", "Since the worker last asked for records"),
)
_WORKERS: Final = WorkerCollector()


def register_worker(group: str, health: Health) -> None:
    """Show a worker's health under its consumer group; a second worker of that name takes the first one's place."""
    if not _WORKERS.workers:
        REGISTRY.register(_WORKERS)
    _WORKERS.workers[group] = health


def workers() -> dict[str, Health]:
    """Give the workers that this process runs, by consumer group."""
    return dict(_WORKERS.workers)
