"""All metrics, and the health of workers. Labels are definitions (saga, step, group), never sagas, accounts or orders.

`steps_executed` counts results in the forward direction; attempts, retries and compensations have their own metrics.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tradesaga.infra.clock import SystemClock, elapsed


@dataclass(slots=True)
class Health:
    """The state of one worker; times are `elapsed()` seconds."""

    polled: float = field(default_factory=elapsed)
    lanes: int = 0
    ready: bool = False
    halted: str = ""
    batches: int = 0
    records: int = 0
    fenced: int = 0
    restarts: int = 0
    fetches: bool = False
    lag: int = 0
    """Records that this group has not handled, as of some seconds ago."""
    unpublished: int = 0
    """Outbox rows that the broker has not acknowledged, as of some seconds ago."""
    oldest_ms: int = 0
    """The broker's time, in milliseconds, of the oldest fetched record not handled yet; 0 for none."""
    refusing: str = ""
    """Why new starts are rejected; empty if they are not."""
    warning: str = ""
    """A problem that does not stop the worker."""
    warnings: dict[str, str] = field(default_factory=dict[str, str])
    """Warnings by source."""

    def warn(self, source: str, text: str) -> None:
        """Set the warning of one source; an empty text clears it."""
        self.warnings[source] = text
        self.warning = "; ".join(filter(None, self.warnings.values()))

    @property
    def lag_seconds(self) -> float:
        """Age in seconds of the oldest fetched record not handled yet."""
        return max(0.0, SystemClock().now() / 1e9 - self.oldest_ms / 1000) if self.oldest_ms else 0.0

    @property
    def poll_age(self) -> float:
        """Seconds since the worker last polled; 0 for an outbox writer, which does not poll."""
        return elapsed() - self.polled if self.fetches else 0.0


_FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_LONG: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)

# Steps, counted by participants.
STEPS_EXECUTED = Counter(
    "tradesaga_steps_executed",
    "Steps with a result, which is done, refused, failed, unknown or barred",
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
    "Compensations with a result, which is compensated or failed",
    ("saga", "step", "result"),
)

STEP_SECONDS = Histogram(
    "tradesaga_step_seconds", "Time from an attempt's start to its result", ("saga", "step", "result"), buckets=_FAST
)

VENUE_REPORTS = Counter(
    "tradesaga_venue_reports",
    "Reports of the venue; result is published or foreign (of an order not placed by a saga)",
    ("venue", "result"),
)

DISCREPANCIES = Gauge(
    "tradesaga_discrepancies",
    "Discrepancies between venue, ledger and sagas at the last reconciliation",
    ("venue", "flaw"),
)

CONTRADICTIONS = Counter("tradesaga_contradictions", "External facts that contradict a step's result", ("saga", "step"))

# Sagas, counted by the saga log.
SAGAS_STARTED = Counter("tradesaga_sagas_started", "Sagas whose start was recorded", ("saga",))

SAGAS_ENDED = Counter(
    "tradesaga_sagas_ended",
    "Sagas that reached COMPLETED, ABORTED or FAILED; a retry takes a saga out of FAILED",
    ("saga", "outcome"),
)

SAGA_SECONDS = Histogram(
    "tradesaga_saga_seconds",
    "Time from the record of the start to the last record, by the broker's timestamps",
    ("saga", "outcome"),
    buckets=_LONG,
)

SAGAS_FAILED_ALERT = Counter(
    "tradesaga_sagas_failed_alert", "Sagas that need an operator, because an effect could not be compensated", ("saga",)
)

DEADLINES_EXCEEDED = Counter(
    "tradesaga_deadlines_exceeded", "Sagas past their deadline; phase is before or after the pivot", ("saga", "phase")
)

STARTS = Counter(
    "tradesaga_starts",
    "Start requests; result is accepted, same (a repeated request), conflict or invalid",
    ("saga", "result"),
)

SIGNALS = Counter(
    "tradesaga_signals",
    "Signals handled, once for each subscribed account; result is accepted, duplicate or the reason of rejection",
    ("saga", "result"),
)

SIGNALS_RAISED = Counter("tradesaga_signals_raised", "Signals published by strategies", ("strategy",))

FACTS = Counter(
    "tradesaga_facts", "Records the saga log wrote; result is counted, recorded or parked", ("saga", "result")
)

OPERATOR_FACTS = Counter(
    "tradesaga_operator_facts",
    "Folded operator actions; result is taken or refused",
    ("saga", "fact", "result"),
)

STARTS_REFUSED = Counter(
    "tradesaga_starts_refused",
    "Rejected starts; reason is queue (too many requests wait to be stored), in_flight or lag",
    ("saga", "reason"),
)

PIPELINE_LAG = Gauge(
    "tradesaga_pipeline_lag_records",
    "Records that a group has not read yet, as seen by services that accept starts",
    ("group",),
)

# Audit log and faulty records.
CLOCK_ERROR = Gauge("tradesaga_clock_error_seconds", "Maximum error of the sealing machine's clock; NaN if unknown")

CLOCK_OUTSIDE = Gauge(
    "tradesaga_clock_outside_tier",
    "1 while the error of the sealing machine's clock exceeds TRADESAGA_AUDIT_CLOCK_TIER or is unknown",
)

UNSEALED = Gauge(
    "tradesaga_audit_unsealed_seconds",
    "Time since the broker's timestamp of the oldest unsealed record; grows while no sealer runs",
    ("saga",),
)

AUDIT_DIFFERENCES = Gauge(
    "tradesaga_audit_differences", "Fields in which topics and database differ, found by the live auditor", ("saga",)
)

PARKED = Counter("tradesaga_parked", "Records parked until an operator releases them", ("group",))

RELEASED = Counter(
    "tradesaga_parked_released", "Parked records released; action is retry or discard", ("group", "action")
)

DEAD_LETTERS = Counter("tradesaga_dead_letters", "Records copied to the dead-letters topic", ("group", "reason"))

# The step path.
BATCH_SECONDS = Histogram(
    "tradesaga_batch_seconds",
    "Time until a batch is committed and passed to the producer",
    ("group",),
    buckets=_FAST,
)

BATCH_RECORDS = Histogram(
    "tradesaga_batch_records", "Records in a batch", ("group",), buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
)

OUTBOX_ROWS = Counter("tradesaga_outbox_rows", "Rows written to the outbox", ("group", "topic"))

SECOND_OWNERS = Counter(
    "tradesaga_second_owners", "Results of another participant for a step of this one", ("group", "step")
)

LOOP_HELD_UP = Counter("tradesaga_loop_held_up", "Times that a function blocked the event loop for 2 s", ("group",))

IN_FLIGHT = Gauge("tradesaga_handlers_in_flight", "Remote handlers running", ("group",))


class WorkerCollector(Collector):
    """Exports the workers' health on scrape, so that it costs the step path nothing."""

    def __init__(self) -> None:
        self.workers: dict[str, Health] = {}

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield one family per field of `Health`, labelled by consumer group."""
        for attribute, family in _families():
            for group, health in self.workers.items():
                value = getattr(health, attribute)
                family.add_metric((group,), float(bool(value) if isinstance(value, str) else value))
            yield family

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the families without values, so that registering reads no worker."""
        for _, family in _families():
            yield family


def _families() -> Iterator[tuple[str, CounterMetricFamily | GaugeMetricFamily]]:
    """Yield the families, each with the attribute of `Health` that it exports."""
    for kind, metrics in ((CounterMetricFamily, _COUNTED), (GaugeMetricFamily, _GAUGED)):
        for name, attribute, text in metrics:
            yield attribute, kind(f"tradesaga_worker_{name}", text, labels=("group",))


_COUNTED: Final = (
    ("batches", "batches", "Batches committed"),
    ("records", "records", "Records handled"),
    ("fenced_lanes", "fenced", "Lanes lost to another owner while in use"),
    ("restarts", "restarts", "Times the worker was in doubt and acquired its lanes again"),
)

_GAUGED: Final = (
    ("lanes", "lanes", "Lanes owned"),
    ("ready", "ready", "1 while the lanes are owned"),
    ("halted", "halted", "1 while the worker is halted until an operator acts; /readyz has the reason"),
    ("lag_records", "lag", "Records of its partitions that the group has not handled, as of some seconds ago"),
    ("unpublished_rows", "unpublished", "Outbox rows that the broker has not acknowledged, as of some seconds ago"),
    ("lag_seconds", "lag_seconds", "Age of the oldest fetched record that is not handled yet"),
    ("poll_age_seconds", "poll_age", "Time since the worker last polled"),
)

_WORKERS: Final = WorkerCollector()


def register_worker(group: str, health: Health) -> None:
    """Export a worker's health under its consumer group; a second worker of the group replaces the first."""
    if not _WORKERS.workers:
        REGISTRY.register(_WORKERS)
    _WORKERS.workers[group] = health


def workers() -> dict[str, Health]:
    """Return the health of this process's workers by consumer group."""
    return dict(_WORKERS.workers)
