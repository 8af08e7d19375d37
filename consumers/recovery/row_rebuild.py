"""What a fact says of the row of its step: rows made anew from facts, as their owners had them. Pure.

What an owner had begun and not told is taken for the worst that it can be: a remote call for unknown, so that the far
side is asked; a local attempt for not made, since its effect was lost together with its row.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final
from uuid import UUID

import orjson
from pydantic import ValidationError

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
"""Before the id of a report that has been told as a contradiction, as waiting steps keep it."""
_LENGTH: Final = 4


class MentionKind(Enum):
    """What a record is to a step."""

    TRIGGER = "trigger"
    REPORT = "report"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    BARRED = "barred"
    ATTEMPTED = "attempted"
    CONTRADICTED = "contradicted"
    COMPENSATED = "compensated"
    STANDS = "stands"


_ANSWERS: Final = {
    MentionKind.DONE: StepMessage.RECORDED_DONE,
    MentionKind.REFUSED: StepMessage.RECORDED_REFUSED,
    MentionKind.FAILED: StepMessage.RECORDED_FAILED,
    MentionKind.BARRED: StepMessage.RECORDED_BARRED,
    MentionKind.COMPENSATED: StepMessage.RECORDED_COMPENSATED,
    MentionKind.STANDS: StepMessage.RECORDED_COMPENSATION_FAILED,
}
_BY_STEP: Final[dict[type[Message], MentionKind]] = {
    lifecycle.StepFailed: MentionKind.FAILED,
    lifecycle.StepBarred: MentionKind.BARRED,
    lifecycle.StepUnknown: MentionKind.ATTEMPTED,
    lifecycle.AttemptFailed: MentionKind.ATTEMPTED,
    lifecycle.StepContradicted: MentionKind.CONTRADICTED,
    lifecycle.CompensationFailed: MentionKind.STANDS,
}


@dataclass(frozen=True, slots=True)
class Mention:
    """One record, and one step that it says something of."""

    kind: MentionKind
    binding: Binding
    saga_id: UUID
    envelope: Envelope
    record: Record

    @property
    def key(self) -> Key:
        """Return the key of the row."""
        return self.saga_id, self.binding.step.name


class FactReader:
    """The wire types that say something of a participant's steps; `partitions` is the count of the topics'.

    A report from outside may name no version: then it is one to the steps of all versions that wait for it.
    """

    def __init__(self, participant: Participant, partitions: int) -> None:
        saga = participant.saga
        self._partitions = partitions
        bindings = Bindings(participant)
        self._unversioned = bindings.unversioned
        self._bindings = bindings.by_version
        self._newest = participant.bindings
        self._by_step = {wire_type(saga.name, message): said for message, said in _BY_STEP.items()}
        self._types = {version: _types(saga.name, each.values()) for version, each in self._bindings.items()}
        self._reports: dict[str, dict[str, tuple[MentionKind, Binding]]] = {}
        for types in self._types.values():
            for ce_type, listed in types.items():
                for said, binding in listed:
                    if said is MentionKind.REPORT:
                        self._reports.setdefault(ce_type, {}).setdefault(binding.step.name, (said, binding))

    def read(self, record: Record) -> list[Mention]:
        """Return what a record of the events topic is to which steps; one that its owner could not trust is to none."""
        try:
            envelope = Envelope.from_headers(record.headers)
        except EnvelopeError:
            return []
        found = self._find(envelope)
        key = envelope.saga_id.encode()
        if not found or record.key != key or record.partition != partition_of(key, self._partitions):
            return []
        saga_id = read_id(envelope.saga_id)
        return [Mention(said, binding, saga_id, envelope, record) for said, binding in found]

    def _find(self, envelope: Envelope) -> Collection[tuple[MentionKind, Binding]]:
        if not envelope.version and (reports := self._reports.get(envelope.type)) is not None:
            return reports.values()
        version = envelope.version or self._unversioned
        if (found := self._types.get(version, {}).get(envelope.type)) is not None:
            return found
        said, binding = self._by_step.get(envelope.type), self._bindings.get(version, {}).get(envelope.step)
        # What is said of a row whose own records could not be read names no version.
        binding = binding or (self._newest.get(envelope.step) if not envelope.version else None)
        return [(said, binding)] if said is not None and binding is not None else []


def _types(saga: str, bindings: Iterable[Binding]) -> dict[str, list[tuple[MentionKind, Binding]]]:
    """Return what each wire type says of the steps of one version."""
    types: dict[str, list[tuple[MentionKind, Binding]]] = {}
    for binding in bindings:
        step = binding.step
        named: list[tuple[MentionKind, type[Message] | None]] = [(MentionKind.TRIGGER, event) for event in step.on]
        named += [
            (MentionKind.DONE, step.emits),
            (MentionKind.REFUSED, step.rejects),
            (MentionKind.REPORT, step.waits_for),
        ]
        named.append((MentionKind.COMPENSATED, step.back[1] if step.back is not None else None))
        for said, message in named:
            for each in (message, *message.EARLIER) if message is not None else ():
                types.setdefault(wire_type(saga, each), []).append((said, binding))
    return types


def rebuild_row(row: Row | None, mention: Mention, lane: int, now: int) -> Row | None:
    """Return the row after a record, or None where it changes nothing. `now` is nanoseconds since 1970.

    Raises `ValueError` for a value that cannot be read: its owner made nothing of it either.
    """
    match mention.kind:
        case MentionKind.TRIGGER:
            return _trigger(row, mention, lane, now)
        case MentionKind.REPORT:
            return _report(row, mention, lane, now)
        case MentionKind.CONTRADICTED:
            return _contradicted(row, mention)
        case MentionKind.ATTEMPTED:
            return _attempted(row, mention)
        case _:
            return _answered(row, mention, lane)


def begin_round(row: Row, binding: Binding, round_: int, now: int) -> None:
    """Open a failed row again in a later round, of which nothing is known."""
    row.apply(decide(row, StepMessage.RETRY, binding.step, round_))
    _open(row, binding, now)


def _open(row: Row, binding: Binding, now: int) -> None:
    """Make due what was begun and not told: a local attempt was lost together with its row."""
    if not binding.remote and row.status is RowStatus.INTENT:
        row.apply(decide(row, StepMessage.DEFERRED, binding.step))
    row.wait, row.started = 0.0, now


def _trigger(row: Row | None, mention: Mention, lane: int, now: int) -> Row | None:
    binding, step = mention.binding, mention.binding.step
    decided = decide(row or NO_ROW, StepMessage.TRIGGER, step)
    if decided.action not in {Action.RUN, Action.STORE_INPUT}:
        return None
    if row is not None and mention.envelope.type in _gathered(row):
        return None
    row = row or Row(mention.saga_id, step.name, lane, RowStatus.WAITING, started=now)
    row.apply(decided)
    headers = mention.record.headers
    packed = pack(headers, mention.record.value)
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


def _report(row: Row | None, mention: Mention, lane: int, now: int) -> Row | None:
    binding, step = mention.binding, mention.binding.step
    if step.waits_for is None or binding.correlate is None:
        return None
    decided = decide(row or NO_ROW, StepMessage.REPORT, step)
    row = row or Row(mention.saga_id, step.name, lane, RowStatus.WAITING, started=now)
    if decided.action is not Action.STORE_REPORT and binding.store is None:
        return None
    try:
        report = step.waits_for.from_wire(mention.record.value)
    except ValidationError as error:
        raise ValueError(str(error)) from error
    known: dict[str, object] = orjson.loads(row.reports) if row.reports else {}
    # Where reports count from a store alone, the record only tells that it is not news any more: the far side is asked.
    told = None if binding.store is not None else orjson.loads(report.to_wire())
    known.setdefault(binding.correlate(report), told)
    row.reports = orjson.dumps(known)
    if decided.action is Action.STORE_REPORT:
        row.wait = 0.0 if row.input or row.bar_seen else None
    return row


def _attempted(row: Row | None, mention: Mention) -> Row | None:
    envelope = mention.envelope
    failed = row is not None and row.status is RowStatus.FAILED
    if row is None or _backward(mention) or (failed and not row.input):
        return None
    step = mention.binding.step
    decided = decide(row, StepMessage.RECORDED_ATTEMPT, step, envelope.round, envelope.attempt)
    if decided.action is Action.NOTHING:
        return None
    row.apply(decided)
    if not mention.binding.remote and row.status is RowStatus.INTENT:
        row.status = RowStatus.RETRY  # a local attempt that is known of was rolled back
    row.wait, row.started = 0.0, envelope.started if failed else max(row.started, envelope.started)
    return row


def _backward(mention: Mention) -> bool:
    return b'"back"' in mention.record.value and mention.envelope.type.endswith("attempt-failed.v1")


def _contradicted(row: Row | None, mention: Mention) -> Row | None:
    if row is None or decide(row, StepMessage.REPORT, mention.binding.step).action is not Action.CHECK_REPORT:
        return None
    try:
        venue_id = lifecycle.StepContradicted.from_wire(mention.record.value).venue_id
    except ValidationError as error:
        raise ValueError(str(error)) from error
    known: dict[str, object] = orjson.loads(row.reports) if row.reports else {}
    row.reports = orjson.dumps({**known, CONTRADICTED + venue_id: None})
    return row


def _answered(row: Row | None, mention: Mention, lane: int) -> Row | None:
    envelope, step = mention.envelope, mention.binding.step
    decided = decide(row or NO_ROW, _ANSWERS[mention.kind], step, envelope.round, envelope.attempt)
    if decided.action is Action.NOTHING:
        return None
    row = row or Row(mention.saga_id, step.name, lane, RowStatus.WAITING)
    row.apply(decided)
    row.started = envelope.started
    answer = pack(mention.record.headers, mention.record.value)
    if decided.action is Action.ANSWER:
        row.keep_answer(answer)
    else:
        row.keep_compensation_answer(answer)
    return row
