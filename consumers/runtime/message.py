"""Which records concern which steps of a participant, and what they are to it."""

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from consumers.evidence import Kind
from consumers.participant import Binding, Participant
from consumers.runtime.second_owners import SecondOwners
from infra.clock import read_id
from infra.codec import Record
from infra.keys import partition_of
from schemas.envelope import SAGA_ID, STEP, TYPE, Envelope, EnvelopeError, Header
from schemas.lifecycle import Bar, Retry
from schemas.message import Message as Payload
from schemas.message import wire_type
from schemas.topics import commands_topic

MAX_ROUND: Final = 2**15 - 1


class StrayError(EnvelopeError):
    """A command that no participant of the saga will ever take."""


class Message(NamedTuple):
    """One record for one step; `payload` is the class of its value, which nobody has read yet."""

    kind: Kind
    binding: Binding
    payload: type[Payload]
    lane: int
    saga_id: UUID
    envelope: Envelope
    record: Record

    @property
    def value(self) -> bytes:
        """Give the payload's bytes."""
        return self.record.value

    @property
    def key(self) -> tuple[UUID, str]:
        """Give the key of the row on which it will be judged."""
        return self.saga_id, self.binding.step.name


class Router:
    """The wire types that concern a participant, compiled once; `partitions` is the count of the topics'.

    A command that concerns no step of the saga is told of by one group alone: the owner of the first step.
    """

    def __init__(self, participant: Participant, partitions: int) -> None:
        saga = participant.saga.name
        self._strays = _Strays(participant) if participant.saga.steps[0].name in participant.bindings else None
        self._partitions = partitions
        self._bindings = participant.bindings
        self._owners = SecondOwners(participant)
        self._routes: dict[bytes, list[tuple[Kind, Binding, type[Payload]]]] = {}
        for binding in participant.bindings.values():
            step = binding.step
            for event in step.on:
                self._add_versions(saga, Kind.TRIGGER, binding, event)
            if step.waits_for is not None:
                self._add_versions(saga, Kind.REPORT, binding, step.waits_for)
            if step.back is not None:
                self._add_versions(saga, Kind.COMPENSATE, binding, step.back[0])
        self._by_step: dict[bytes, tuple[Kind, type[Payload]]] = {
            wire_type(saga, Bar).encode(): (Kind.BAR, Bar),
            wire_type(saga, Retry).encode(): (Kind.RETRY, Retry),
        }

    def _add(self, ce_type: str, kind: Kind, binding: Binding, payload: type[Payload]) -> None:
        self._routes.setdefault(ce_type.encode(), []).append((kind, binding, payload))

    def _add_versions(self, saga: str, kind: Kind, binding: Binding, payload: type[Payload]) -> None:
        for version in (payload, *payload.EARLIER):
            self._add(wire_type(saga, version), kind, binding, version)

    def wants(self, headers: Sequence[Header]) -> bool:
        """Say whether a record concerns any step, from two headers at most."""
        for name, value in headers:
            if name == TYPE:
                if value in self._owners:
                    self._owners.look(value, headers)
                return value in self._routes or (value in self._by_step and self._named(headers) is not None)
        return False

    def tells(self, topic: str, headers: Sequence[Header]) -> bool:
        """Say whether a record is a stray of which this participant is to tell."""
        return self._strays is not None and self._strays.flaw(topic, headers) != ""

    def _named(self, headers: Sequence[Header]) -> Binding | None:
        for name, value in headers:
            if name == STEP:
                return self._bindings.get((value or b"").decode("utf-8", "replace"))
        return None

    def read(self, lane: int, record: Record) -> list[Message]:
        """Give the messages a wanted record holds; raises `EnvelopeError` when its headers cannot be trusted."""
        headers = record.headers
        if self._strays is not None and (flaw := self._strays.flaw(record.topic, headers)):
            raise StrayError(flaw)
        envelope = Envelope.from_headers(headers)
        saga_id = _saga_id(record, envelope, self._partitions)
        if not 1 <= envelope.round <= MAX_ROUND:
            raise EnvelopeError(f"header ts_round is {envelope.round}; 1 to {MAX_ROUND} can be")
        ce_type = envelope.type.encode()
        if (by_step := self._by_step.get(ce_type)) is not None:
            binding = self._named(headers)
            routes = [(by_step[0], binding, by_step[1])] if binding is not None else []
        else:
            routes = self._routes.get(ce_type, [])
        if not routes:
            raise EnvelopeError(f"header {TYPE} or {STEP} is there twice, and differs")
        return [Message(kind, binding, payload, lane, saga_id, envelope, record) for kind, binding, payload in routes]


class _Strays:
    """What the commands topic of a saga may hold, whoever takes it."""

    def __init__(self, participant: Participant) -> None:
        saga = participant.saga
        self._topic = commands_topic(saga.name)
        self._steps = {step.name.encode() for step in saga.steps}
        self._by_step = {wire_type(saga.name, Bar).encode(), wire_type(saga.name, Retry).encode()}
        self._types = {wire_type(saga.name, step.back[0]).encode() for step in saga.steps if step.back is not None}

    def flaw(self, topic: str, headers: Sequence[Header]) -> str:
        """Say what keeps a command from concerning any step; empty for one that does, and for other topics."""
        if topic != self._topic:
            return ""
        first = {name: value or b"" for name, value in reversed(headers)}
        ce_type, step = first.get(TYPE, b""), first.get(STEP, b"")
        if ce_type in self._by_step:
            return "" if step in self._steps else f"the command is for step {_shown(step)}, which the saga has not"
        return "" if ce_type in self._types else f"the saga has no command of type {_shown(ce_type)}"


def _shown(header: bytes) -> str:
    return repr(header[:100].decode("utf-8", "replace"))


def _saga_id(record: Record, envelope: Envelope, partitions: int) -> UUID:
    """Give the saga's id. A record under another key, or on another partition, is not its lane's to judge."""
    key = envelope.saga_id.encode()
    if record.key != key:
        raise EnvelopeError(f"the key is not the saga's id in header {SAGA_ID}")
    home = partition_of(key, partitions)
    if record.partition != home:
        raise EnvelopeError(f"the saga belongs to partition {home} of {record.topic}, not to {record.partition}")
    return read_id(envelope.saga_id)
