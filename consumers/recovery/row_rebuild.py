"""Pure functions that rebuild step rows from facts.

What the owner had begun and not reported is assumed to be the worst case: a remote call is unknown, so that the far
side is queried; a local attempt was not made, because its effect was lost together with its row.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final
from uuid import UUID

import orjson

from tradesaga.consumers.participant import Binding, Participant
from tradesaga.consumers.runtime.event_factory import split_packed
from tradesaga.consumers.runtime.message import Bindings
from tradesaga.consumers.runtime.step_rows import Key, Row
from tradesaga.infra.clock import read_id
from tradesaga.infra.kafka.codec import Record, pack, unpack
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.sagas.decide import Action, StepMessage, decide
from tradesaga.sagas.step_state import NO_ROW, RowStatus
from tradesaga.schemas.envelope import Envelope, EnvelopeError
from tradesaga.schemas.messages import lifecycle
from tradesaga.schemas.messages.message import Message, wire_type

CONTRADICTED: Final = "!"
"""Prefix of the id of a report whose contradiction was published, as in the rows of waiting steps."""
_LENGTH: Final = 4


_BY_STEP: Final[dict[type[Message], StepMessage | None]] = {
    lifecycle.StepFailed: StepMessage.RECORDED_FAILED,
    lifecycle.StepBarred: StepMessage.RECORDED_BARRED,
    lifecycle.StepUnknown: StepMessage.RECORDED_ATTEMPT,
    lifecycle.AttemptFailed: StepMessage.RECORDED_ATTEMPT,
    lifecycle.StepContradicted: None,
    lifecycle.CompensationFailed: StepMessage.RECORDED_COMPENSATION_FAILED,
}
_Types = dict[str, list[tuple[StepMessage | None, Binding]]]


@dataclass(frozen=True, slots=True)
class StepFact:
    """One record, and one step that it concerns. A `kind` of None means a published contradiction."""

    kind: StepMessage | None
    binding: Binding
    saga_id: UUID
    envelope: Envelope
    record: Record

    @property
    def key(self) -> Key:
        """Return the key of the row."""
        return self.saga_id, self.binding.step.name


class FactReader:
    """Finds the steps of a participant that a record concerns; `partitions` is the partition count of the topics.

    A report from outside may have no version. Then it concerns the steps of all versions that wait for it.
    """

    def __init__(self, participant: Participant, partitions: int) -> None:
        saga = participant.saga
        self._partitions = partitions
        bindings = Bindings(participant)
        self._unversioned = bindings.unversioned
        self._bindings = bindings.by_version
        self._newest = participant.bindings
        self._by_step = {wire_type(saga.name, message): kind for message, kind in _BY_STEP.items()}
        self._types = {version: _types(saga.name, each.values()) for version, each in self._bindings.items()}
        self._reports: dict[str, dict[str, tuple[StepMessage | None, Binding]]] = {}
        for ce_type, concerned in chain.from_iterable(types.items() for types in self._types.values()):
            for kind, binding in concerned:
                if kind is StepMessage.REPORT:
                    self._reports.setdefault(ce_type, {}).setdefault(binding.step.name, (kind, binding))

    def read(self, record: Record) -> list[StepFact]:
        """Return the steps that a record of the events topic concerns; none if its owner would not trust it."""
        try:
            envelope = Envelope.from_headers(record.headers)
        except EnvelopeError:
            return []
        found = self._find(envelope)
        key = envelope.saga_id.encode()
        if not found or record.key != key or record.partition != partition_of(key, self._partitions):
            return []
        saga_id = read_id(envelope.saga_id)
        return [StepFact(kind, binding, saga_id, envelope, record) for kind, binding in found]

    def _find(self, envelope: Envelope) -> Collection[tuple[StepMessage | None, Binding]]:
        if not envelope.version and (reports := self._reports.get(envelope.type)) is not None:
            return reports.values()
        version = envelope.version or self._unversioned
        if (found := self._types.get(version, {}).get(envelope.type)) is not None:
            return found
        if envelope.type not in self._by_step:
            return []
        binding = self._bindings.get(version, {}).get(envelope.step)
        # A report on a row whose own records were unreadable has no version.
        binding = binding or (self._newest.get(envelope.step) if not envelope.version else None)
        return [(self._by_step[envelope.type], binding)] if binding is not None else []


def _types(saga: str, bindings: Iterable[Binding]) -> _Types:
    """Return the steps of one version that each wire type concerns."""
    types: _Types = {}
    for binding in bindings:
        step = binding.step
        messages: list[tuple[StepMessage, type[Message] | None]] = [
            *((StepMessage.TRIGGER, event) for event in step.on),
            (StepMessage.RECORDED_DONE, step.emits),
            (StepMessage.RECORDED_REFUSED, step.rejects),
            (StepMessage.REPORT, step.waits_for),
            (StepMessage.RECORDED_COMPENSATED, step.back[1] if step.back is not None else None),
        ]
        for kind, message in messages:
            for each in (message, *message.EARLIER) if message is not None else ():
                types.setdefault(wire_type(saga, each), []).append((kind, binding))
    return types


def rebuild_row(row: Row | None, fact: StepFact, lane: int, now: int) -> Row | None:
    """Return the row after a record, or None where it changes nothing. `now` is nanoseconds since 1970.

    Raises `ValueError` for an unreadable value, which its owner could not read either.
    """
    match fact.kind:
        case StepMessage.TRIGGER:
            return _on_trigger(row, fact, lane, now)
        case StepMessage.REPORT:
            return _on_report(row, fact, lane, now)
        case None:
            return _on_contradiction(row, fact)
        case StepMessage.RECORDED_ATTEMPT:
            return _on_attempt(row, fact)
        case kind:
            return _on_answer(row, fact, kind, lane)


def begin_round(row: Row, binding: Binding, round_: int, now: int) -> None:
    """Reopen a failed row in a later round, of which nothing else is known."""
    row.apply(decide(row, StepMessage.RETRY, binding.step, round_))
    _open(row, binding, now)


def _open(row: Row, binding: Binding, now: int) -> None:
    """Make due what was begun and not reported: a local attempt was lost together with its row."""
    if not binding.remote and row.status is RowStatus.INTENT:
        row.apply(decide(row, StepMessage.DEFERRED, binding.step))
    row.wait, row.started = 0.0, now


def _on_trigger(row: Row | None, fact: StepFact, lane: int, now: int) -> Row | None:
    binding, step = fact.binding, fact.binding.step
    decided = decide(row or NO_ROW, StepMessage.TRIGGER, step)
    if decided.action not in {Action.RUN, Action.STORE_INPUT}:
        return None
    if row is not None and fact.envelope.type in _gathered(row):
        return None
    row = row or Row(fact.saga_id, step.name, lane, RowStatus.WAITING, started=now)
    row.apply(decided)
    headers = fact.record.headers
    packed = pack(headers, fact.record.value)
    row.input = (row.input or b"") + len(packed).to_bytes(_LENGTH, "big") + packed
    row.lane = lane
    if len(split_packed(row.input)) < len(step.on):
        return row
    if decided.action is Action.STORE_INPUT:
        row.apply(decide(row, StepMessage.INPUTS_COMPLETE, step))
    _open(row, binding, now)
    return row


def _gathered(row: Row) -> set[str]:
    return {dict(unpack(part[_LENGTH:])[0])["ce_type"].decode() for part in split_packed(row.input)}


def _on_report(row: Row | None, fact: StepFact, lane: int, now: int) -> Row | None:
    binding, step = fact.binding, fact.binding.step
    if step.waits_for is None or binding.correlate is None:
        return None
    decided = decide(row or NO_ROW, StepMessage.REPORT, step)
    row = row or Row(fact.saga_id, step.name, lane, RowStatus.WAITING, started=now)
    if decided.action is not Action.STORE_REPORT and binding.store is None:
        return None
    report = step.waits_for.from_wire(fact.record.value)
    known = _reports(row)
    # With a store, only its reports count: the record shows that this one was known, and the far side is queried.
    stored = None if binding.store is not None else orjson.loads(report.to_wire())
    known.setdefault(binding.correlate(report), stored)
    row.reports = orjson.dumps(known)
    if decided.action is Action.STORE_REPORT:
        row.wait = 0.0 if row.input or row.bar_seen else None
    return row


def _on_attempt(row: Row | None, fact: StepFact) -> Row | None:
    envelope = fact.envelope
    failed = row is not None and row.status is RowStatus.FAILED
    backward = b'"back"' in fact.record.value and envelope.type.endswith("attempt-failed.v1")
    if row is None or backward or (failed and not row.input):
        return None
    decided = decide(row, StepMessage.RECORDED_ATTEMPT, fact.binding.step, envelope.round, envelope.attempt)
    if decided.action is Action.NOTHING:
        return None
    row.apply(decided)
    if not fact.binding.remote and row.status is RowStatus.INTENT:
        row.status = RowStatus.RETRY  # a local attempt that failed was rolled back
    row.wait, row.started = 0.0, envelope.started if failed else max(row.started, envelope.started)
    return row


def _on_contradiction(row: Row | None, fact: StepFact) -> Row | None:
    if row is None or decide(row, StepMessage.REPORT, fact.binding.step).action is not Action.CHECK_REPORT:
        return None
    venue_id = lifecycle.StepContradicted.from_wire(fact.record.value).venue_id
    row.reports = orjson.dumps({**_reports(row), CONTRADICTED + venue_id: None})
    return row


def _reports(row: Row) -> dict[str, object]:
    return orjson.loads(row.reports) if row.reports else {}


def _on_answer(row: Row | None, fact: StepFact, kind: StepMessage, lane: int) -> Row | None:
    envelope, step = fact.envelope, fact.binding.step
    decided = decide(row or NO_ROW, kind, step, envelope.round, envelope.attempt)
    if decided.action is Action.NOTHING:
        return None
    row = row or Row(fact.saga_id, step.name, lane, RowStatus.WAITING)
    row.apply(decided)
    row.started = envelope.started
    answer = pack(fact.record.headers, fact.record.value)
    if decided.action is Action.ANSWER:
        row.keep_answer(answer)
    else:
        row.keep_compensation_answer(answer)
    return row
