"""One batch under judgement: its rows, what it will publish, and what starts once it is committed."""

from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from prometheus_client import Counter, Histogram

from tradesaga.consumers.context import StepContext
from tradesaga.consumers.participant import Binding
from tradesaga.consumers.runtime.blocking import LoopWatch
from tradesaga.consumers.runtime.event_factory import EventFactory, Trigger
from tradesaga.consumers.runtime.local_handlers import Budget, Item
from tradesaga.consumers.runtime.message import Bindings, Message
from tradesaga.consumers.runtime.outcome import CallKind
from tradesaga.consumers.runtime.remote_calls import Call, Calls
from tradesaga.consumers.runtime.reports import Report
from tradesaga.consumers.runtime.step_rows import Key, Row
from tradesaga.infra.kafka.codec import Outgoing, unpack
from tradesaga.infra.outbox.processor import Transaction
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.decide import Due, StepMessage, decide
from tradesaga.sagas.step import AnyStep
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.message import Event
from tradesaga.schemas.messages.message import Message as Payload

Metric = TypeVar("Metric", Counter, Histogram)
CALL_MARGIN = 1.0
"""Seconds past a call's time limit at which its row is taken up again, should its caller have died."""
PUT_OFF = 0.05
"""Seconds after which a call for which there was no room is due."""

_DEFERRED = {CallKind.CALL: StepMessage.DEFERRED, CallKind.COMPENSATE: StepMessage.COMPENSATION_DEFERRED}
_RESULTS = {
    RowStatus.DONE: "done",
    RowStatus.REFUSED: "refused",
    RowStatus.FAILED: "failed",
    RowStatus.BARRED: "barred",
}


@dataclass(slots=True)
class ParticipantRuntime:
    """What judging needs besides the messages: fixed for a participant."""

    saga: str
    group: str
    bindings: Bindings
    payloads: Mapping[str, type[Payload]]
    events: EventFactory
    calls: Calls
    now: Callable[[], int]
    chance: Callable[[], float]
    skew_ns: int
    is_paused: Callable[[StepContext], bool]
    watch: LoopWatch
    _children: dict[tuple[object, ...], Any] = field(default_factory=dict[tuple[object, ...], Any])

    def child(self, metric: Metric, *labels: str) -> Metric:
        """Give a metric's child for these labels; found once, since finding it costs more than counting."""
        key = (id(metric), *labels)
        if key not in self._children:
            self._children[key] = metric.labels(self.saga, *labels)
        return self._children[key]


@dataclass
class BatchContext:
    """What the judging of a batch changes: nothing outside it, so that a batch rolled back can be judged again.

    `late` are the reports of this batch that an answer counts already, `counted` those that one counts from now on;
    `kept` has the reports in rows, read once a batch, and `concluding` the rows, with lanes, that reports may answer.
    """

    runtime: ParticipantRuntime
    transaction: Transaction
    rows: dict[Key, Row]
    any_paused: bool = False
    evidence: Mapping[UUID, Any] = field(default_factory=dict[UUID, Any])
    reports: Mapping[Key, Sequence[Event]] = field(default_factory=dict[Key, Sequence[Event]])
    late: set[Report] = field(default_factory=set[Report])
    counted: set[Report] = field(default_factory=set[Report])
    kept: dict[Key, dict[str, object]] = field(default_factory=dict[Key, dict[str, object]])
    concluding: dict[Key, int] = field(default_factory=dict[Key, int])
    budget: Budget = field(default_factory=Budget)
    dirty: dict[Key, Row] = field(default_factory=dict[Key, Row])
    calls: list[Call] = field(default_factory=list[Call])
    call_bytes: int = 0
    local: dict[Key, Item] = field(default_factory=dict[Key, Item])
    counts: Tally[Counter] = field(default_factory=Tally[Counter])
    seconds: list[tuple[Histogram, float]] = field(default_factory=list[tuple[Histogram, float]])

    def open_row(self, message: Message, status: RowStatus) -> Row:
        """Return a new row for a step of which nothing was known."""
        row = Row(message.saga_id, message.binding.step.name, message.lane, status, started=self.runtime.now())
        self.rows[row.key] = row
        return row

    def touch(self, row: Row) -> None:
        """Have the row written; its `wait` is written too, so it must be right."""
        self.dirty[row.key] = row

    def wait(self, due: Due, row: Row, step: AnyStep) -> float | None:
        """Return the seconds from the commit after which the row is due; random delays are drawn here."""
        match due:
            case Due.NEVER:
                return None
            case Due.NOW:
                return 0.0
            case Due.CALL:
                return step.timeout.total_seconds() + CALL_MARGIN
            case Due.TIMEOUT:
                return step.timeout.total_seconds()
            case Due.BACKOFF:
                back = row.status is RowStatus.COMPENSATING
                retry, attempt = (step.retry_of_compensation, row.back_attempt) if back else (step.retry, row.attempt)
                return retry.delay(attempt, self.runtime.chance()).total_seconds()
            case Due.QUERY:
                return 0.1 + 0.9 * self.runtime.chance()
            case Due.BARRING:
                return 0.2 + 0.3 * self.runtime.chance()

    def stored(self, framed: bytes | None) -> Trigger:
        """Read a message kept in a row; raises `ValueError` if the row holds none, `UnknownVersionError`."""
        if framed is None:
            raise ValueError("the row holds no input")
        return Trigger.stored(framed, self.runtime.payloads, self.runtime.bindings.check)

    def step(self, row: Row, trigger: Trigger) -> AnyStep:
        """Return the step of a row, as the version defines it under which its cause was said."""
        return self.runtime.bindings.at(row.step, trigger.envelope.version).step

    def binding(self, row: Row, trigger: Trigger) -> Binding:
        """Return the functions of a row's step; raises `UnknownVersionError`, `KeyError`."""
        return self.runtime.bindings.at(row.step, trigger.envelope.version)

    def context(
        self, row: Row, binding: Binding, trigger: Trigger, *, local: bool = False, back: bool = False
    ) -> StepContext:
        """Make what a handler is told."""
        timeout_ns = int(binding.step.timeout.total_seconds() * 1e9)
        return StepContext(
            saga_id=row.saga_id,
            step=row.step,
            attempt=row.back_attempt if back else row.attempt,
            key=f"{row.saga_id}:{row.step}{':back' if back else ''}",
            expires_ns=row.started + timeout_ns,
            facts=trigger.envelope.context,
            traceparent=trigger.envelope.traceparent,
            sql=self.transaction.sql if local else None,
            evidence=self.evidence.get(row.saga_id),
        )

    def call(self, kind: CallKind, row: Row, binding: Binding, trigger: Trigger) -> bool:
        """Have the far side called once this batch is committed; if nothing comes of it, the row is taken up again.

        Says False where there is no room: the call has not been made, and its row is due in a moment.
        """
        context = self.context(row, binding, trigger, back=kind is CallKind.COMPENSATE)
        call = Call(kind, binding, row.saga_id, context.attempt, context, trigger)
        admitted = self.runtime.calls.admits(len(self.calls), self.call_bytes + call.size)
        if admitted:
            self.calls.append(call)
            self.call_bytes += call.size
            row.wait = self.wait(Due.CALL, row, binding.step)
        else:
            if (deferred := _DEFERRED.get(kind)) is not None:
                row.apply(decide(row, deferred, binding.step))
            row.wait = PUT_OFF
        self.touch(row)
        return admitted

    def under_way(self, row: Row) -> bool:
        """Say whether the far side is being asked for this row, or will be once this batch is committed."""
        return row.key in self.runtime.calls or any(call.key == row.key for call in self.calls)

    def make_event(self, row: Row, trigger: Trigger | None, fact: Event, *, back: bool = False) -> Outgoing:
        """Make a fact of ours, whose value nobody has written yet."""
        return self.runtime.events.make_event(row, trigger, fact, fact.to_wire(), back=back)

    def answer(self, row: Row, made: Outgoing, lane: int) -> None:
        """End the step forward: the row keeps what it said, and says the same again whenever asked."""
        row.keep_answer(made.packed)
        self.transaction.emit(lane, made)
        self.touch(row)
        result = _RESULTS[row.status]
        self.count(metrics.STEPS_EXECUTED, row.step, result)
        histogram = self.runtime.child(metrics.STEP_SECONDS, row.step, result)
        self.seconds.append((histogram, (self.runtime.now() - row.started) / 1e9))

    def answer_compensation(self, row: Row, made: Outgoing, lane: int) -> None:
        """End the compensation, for this round."""
        row.keep_compensation_answer(made.packed)
        self.transaction.emit(lane, made)
        self.touch(row)
        result = "compensated" if row.status is RowStatus.COMPENSATED else "failed"
        self.count(metrics.STEPS_COMPENSATED, row.step, result)

    def emit_again(self, lane: int, packed: bytes | None) -> None:
        """Publish a stored answer once more, byte for byte; what was lost may have been the first one."""
        if packed is None:
            return
        headers, value = unpack(packed)
        self.transaction.emit(lane, Outgoing.of_stored(self.runtime.events.topic, headers, value))

    def count(self, counter: Counter, *labels: str) -> None:
        """Count once the batch is committed."""
        self.counts[self.runtime.child(counter, *labels)] += 1


def request_of(packed: bytes | None) -> str:
    """Give the hash of the start that a stored answer goes back to."""
    return Envelope.from_headers(unpack(packed)[0]).request if packed else ""
