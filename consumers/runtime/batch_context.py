"""State of the batch being processed: its rows, outgoing records, metrics, and calls to start after the commit."""

from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import UUID

from prometheus_client import Counter, Histogram

from tradesaga.consumers.context import StepContext
from tradesaga.consumers.participant import Binding
from tradesaga.consumers.runtime.event_factory import CallKind, EventFactory, Trigger
from tradesaga.consumers.runtime.local_handlers import Budget, Item, LoopWatch
from tradesaga.consumers.runtime.message import Bindings, Message
from tradesaga.consumers.runtime.remote_calls import Call, Calls
from tradesaga.consumers.runtime.step_rows import Key, Row
from tradesaga.infra.kafka.codec import Outgoing, unpack
from tradesaga.infra.outbox.processor import Transaction
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.decide import Due, StepMessage, Transition, decide
from tradesaga.sagas.step import AnyStep
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.lifecycle import StepBarred
from tradesaga.schemas.messages.message import Event
from tradesaga.schemas.messages.message import Message as Payload

CALL_MARGIN = 1.0
"""Seconds after a call's time limit at which its row is due, in case the process that made the call has died."""
NO_ROOM_DELAY = 0.05
"""Seconds after which a call is tried again for which there was no room."""

Report = tuple[UUID, str, str]
"""A report by saga, step and its own id."""

_DEFERRED = {CallKind.CALL: StepMessage.DEFERRED, CallKind.COMPENSATE: StepMessage.COMPENSATION_DEFERRED}
_RESULTS = {
    RowStatus.DONE: "done",
    RowStatus.REFUSED: "refused",
    RowStatus.FAILED: "failed",
    RowStatus.BARRED: "barred",
}


@dataclass(slots=True)
class ParticipantRuntime:
    """What message processing needs besides the messages; the same for all batches of a participant."""

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


@dataclass
class BatchContext:
    """All state that processing a batch changes, so that a batch that is rolled back can be processed again.

    `late` are the reports of this batch that an answer already includes, `counted` those that an answer of this batch
    includes. `kept` has the reports stored in rows, parsed once a batch, `kept_bytes` their size in the row;
    `concluding` has the rows, with their lanes, that reports of this batch may complete. `held` are the lanes of rows
    that a pause holds.
    """

    runtime: ParticipantRuntime
    transaction: Transaction
    rows: dict[Key, Row]
    any_paused: bool = False
    held: set[int] = field(default_factory=set[int])
    evidence: Mapping[UUID, Any] = field(default_factory=dict[UUID, Any])
    reports: Mapping[Key, Sequence[Event]] = field(default_factory=dict[Key, Sequence[Event]])
    late: set[Report] = field(default_factory=set[Report])
    counted: set[Report] = field(default_factory=set[Report])
    kept: dict[Key, dict[str, object]] = field(default_factory=dict[Key, dict[str, object]])
    kept_bytes: dict[Key, int] = field(default_factory=dict[Key, int])
    concluding: dict[Key, int] = field(default_factory=dict[Key, int])
    budget: Budget = field(default_factory=Budget)
    dirty: dict[Key, Row] = field(default_factory=dict[Key, Row])
    calls: list[Call] = field(default_factory=list[Call])
    call_bytes: int = 0
    local: dict[Key, Item] = field(default_factory=dict[Key, Item])
    counts: Tally[Counter] = field(default_factory=Tally[Counter])
    seconds: list[tuple[Histogram, float]] = field(default_factory=list[tuple[Histogram, float]])

    def open_row(self, message: Message, status: RowStatus) -> Row:
        """Create the row of a step that has none."""
        row = Row(message.saga_id, message.binding.step.name, message.lane, status, started=self.runtime.now())
        self.rows[row.key] = row
        return row

    def touch(self, row: Row) -> None:
        """Mark the row to be written, with its `wait`."""
        self.dirty[row.key] = row

    def apply(self, row: Row, decided: Transition, step: AnyStep) -> None:
        """Apply a transition to the row, with its due time, and mark it to be written."""
        row.apply(decided)
        row.wait = self.wait(decided.due, row, step)
        self.touch(row)

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
        """Read a message stored in a row; raises `ValueError` if there is none, `UnknownVersionError`."""
        if framed is None:
            raise ValueError("the row holds no input")
        return Trigger.stored(framed, self.runtime.payloads, self.runtime.bindings.check)

    def step(self, row: Row, trigger: Trigger) -> AnyStep:
        """Return the step of a row, as defined in the version of its trigger."""
        return self.runtime.bindings.at(row.step, trigger.envelope.version).step

    def binding(self, row: Row, trigger: Trigger) -> Binding:
        """Return the functions of a row's step; raises `UnknownVersionError`, `KeyError`."""
        return self.runtime.bindings.at(row.step, trigger.envelope.version)

    def context(
        self, row: Row, binding: Binding, trigger: Trigger, *, local: bool = False, back: bool = False
    ) -> StepContext:
        """Create the context that a handler receives."""
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
        """Schedule a remote call for after the commit; the row is due again after the call's time limit.

        Returns False if there is no room for the call: its row is due again after `NO_ROOM_DELAY` seconds.
        """
        context = self.context(row, binding, trigger, back=kind is CallKind.COMPENSATE)
        call = Call(kind, binding, row.saga_id, context.attempt, context, trigger, row.lane)
        admitted = self.runtime.calls.admits(len(self.calls), self.call_bytes + call.size)
        if admitted:
            self.calls.append(call)
            self.call_bytes += call.size
            row.wait = self.wait(Due.CALL, row, binding.step)
        else:
            if (deferred := _DEFERRED.get(kind)) is not None:
                row.apply(decide(row, deferred, binding.step))
            row.wait = NO_ROOM_DELAY
        self.touch(row)
        return admitted

    def under_way(self, row: Row) -> bool:
        """Return whether a remote call for this row is under way or scheduled in this batch."""
        return row.key in self.runtime.calls or any(call.key == row.key for call in self.calls)

    def make_event(self, row: Row, trigger: Trigger | None, fact: Event, *, back: bool = False) -> Outgoing:
        """Serialize a fact of the runtime's own, and make its record."""
        return self.runtime.events.make_event(row, trigger, fact, fact.to_wire(), back=back)

    def answer(self, row: Row, made: Outgoing, lane: int) -> None:
        """Publish the step's answer and store it in the row, from which it is repeated."""
        row.keep_answer(made.packed)
        self.transaction.emit(lane, made)
        self.touch(row)
        result = _RESULTS[row.status]
        self.count(metrics.STEPS_EXECUTED, row.step, result)
        histogram = _child(metrics.STEP_SECONDS, self.runtime.saga, row.step, result)
        self.seconds.append((histogram, (self.runtime.now() - row.started) / 1e9))

    def answer_barred(self, row: Row, trigger: Trigger | None, lane: int) -> None:
        """Answer `StepBarred`: the step has not happened and never will."""
        self.answer(row, self.make_event(row, trigger, StepBarred(step=row.step)), lane)

    def answer_compensation(self, row: Row, made: Outgoing, lane: int) -> None:
        """Publish the compensation's answer of this round and store it in the row."""
        row.keep_compensation_answer(made.packed)
        self.transaction.emit(lane, made)
        self.touch(row)
        result = "compensated" if row.status is RowStatus.COMPENSATED else "failed"
        self.count(metrics.STEPS_COMPENSATED, row.step, result)

    def emit_again(self, lane: int, packed: bytes | None) -> None:
        """Publish a stored answer again, byte for byte: the first copy may have been lost."""
        if packed is None:
            return
        headers, value = unpack(packed)
        self.transaction.emit(lane, Outgoing.of_stored(self.runtime.events.topic, headers, value))

    def count(self, counter: Counter, *labels: str) -> None:
        """Increment a counter once the batch is committed."""
        self.counts[_child(counter, self.runtime.saga, *labels)] += 1


@cache
def _child(metric: Any, *labels: str) -> Any:
    """Return a metric's child for these labels; cached, because the lookup costs more than the increment."""
    return metric.labels(*labels)


def request_of(packed: bytes | None) -> str:
    """Return the request hash in a stored answer's headers."""
    return Envelope.from_headers(unpack(packed)[0]).request if packed else ""
