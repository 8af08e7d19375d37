"""Route records to a participant's steps."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import structlog

from tradesaga.consumers.participant import Binding, Participant
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.infra.clock import read_id
from tradesaga.infra.kafka.codec import Record, unpack
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.infra.registry.sagas import UNKNOWN_VERSION
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.decide import StepMessage
from tradesaga.schemas.envelope import SAGA_ID, STEP, TYPE, VERSION, Envelope, EnvelopeError, Header
from tradesaga.schemas.messages.lifecycle import Bar, Retry
from tradesaga.schemas.messages.message import Message as Payload
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.topics import commands_topic

_MOST: Final = 100
"""Other owners that are logged; anybody may write any source."""


class SecondOwners:
    """Detects answers to this participant's steps that another participant gave.

    `steps` maps the wire types of answers to their steps.
    """

    def __init__(self, participant: Participant) -> None:
        saga = participant.saga.name
        self._group = participant.group
        self._saga = f"/{saga}/".encode()
        self._own = ("ce_source", f"/{saga}/{participant.name}".encode())
        self._logged: set[tuple[str, bytes]] = set()
        self.steps = participant.answer_types

    def look(self, ce_type: bytes, headers: Sequence[Header]) -> None:
        """Count an answer of another participant, and log the first of each source; called for each answer."""
        if self._own in headers:
            return
        source = next((value or b"" for name, value in headers if name == "ce_source"), b"")
        if not source.startswith(self._saga):
            return
        step = self.steps[ce_type]
        metrics.SECOND_OWNERS.labels(self._group, step).inc()
        if (step, source) not in self._logged and len(self._logged) < _MOST:
            self._logged.add((step, source))
            structlog.get_logger("participant").error(
                "a step has a second owner, and each of the two does it: bind it in one of them",
                step=step, group=self._group, other=source.decode("utf-8", "replace"),
            )  # fmt: skip


_LENGTH = 4


class UnknownVersionError(EnvelopeError):
    """The saga's version of its definition is not registered here; the record waits until it is."""


class Bindings:
    """A participant's bindings by step and version; a step that is the same in all versions is found by name."""

    def __init__(self, participant: Participant) -> None:
        saga = participant.saga
        self.unversioned = 1 if 1 in saga.versions else min(saga.versions)
        self.by_version: Mapping[int, Mapping[str, Binding]] = {
            version: participant.under(version) for version in saga.versions
        }
        self.known = "version " + ", ".join(map(str, sorted(self.by_version)))
        self._newest = participant.bindings
        variants = [(name, binding) for each in self.by_version.values() for name, binding in each.items()]
        self._alike = {
            name: binding
            for name, binding in participant.bindings.items()
            if all(other is binding for known, other in variants if known == name)
        }

    def at(self, step: str, version: int) -> Binding:
        """Return the binding of a step in a version; 0 is for a record without one.

        Raises `UnknownVersionError`, and `KeyError` for a step that this participant does not own under that version.
        """
        if version:
            self.check(version)
        alike = self._alike.get(step)
        return alike if alike is not None else self.by_version[version or self.unversioned][step]

    def check(self, version: int) -> None:
        """Raise `UnknownVersionError` for a version that is not registered here."""
        if version and version not in self.by_version:
            raise UnknownVersionError(f"{UNKNOWN_VERSION} {version}; this service knows {self.known}")

    def newest(self, step: str) -> Binding:
        """Return the binding of a step in the newest version that has it; raises `KeyError`."""
        return self._newest[step]

    def of(self, row: Row) -> Binding:
        """Return the binding of a row, by the version in its stored records.

        A row with nothing but reports has no version yet: the newest is used.
        """
        alike = self._alike.get(row.step)
        if alike is not None:
            return alike
        kept = row.input[_LENGTH:] if row.input else row.back_input[_LENGTH:] if row.back_input else row.answer
        if kept is None:
            return self._newest[row.step]
        return self.at(row.step, int(dict(unpack(kept)[0]).get(VERSION) or 0))


MAX_ROUND: Final = 2**15 - 1


class StrayError(EnvelopeError):
    """A command that is for no step of the saga."""


class Message(NamedTuple):
    """One record for one step; `payload` is the class of its value, which has not been parsed yet."""

    kind: StepMessage
    binding: Binding
    payload: type[Payload]
    lane: int
    saga_id: UUID
    envelope: Envelope
    record: Record

    @property
    def value(self) -> bytes:
        """Return the record's value."""
        return self.record.value

    @property
    def key(self) -> tuple[UUID, str]:
        """Return the key of the step's row."""
        return self.saga_id, self.binding.step.name


Route = tuple[StepMessage, Binding, type[Payload]]


class Router:
    """Routing table from wire types to a participant's steps; `partitions` is the partition count of the topics.

    Routes depend on the version in the record's headers. A report may have none: it goes to the steps of all versions
    that wait for it. A command for no step of the saga is reported by one group alone: the owner of the first step.
    """

    def __init__(self, participant: Participant, partitions: int) -> None:
        saga = participant.saga.name
        bindings = Bindings(participant)
        first = participant.saga.steps[0].name in bindings.by_version[participant.saga.version]
        self._strays = _Strays(participant) if first else None
        self._partitions = partitions
        self._unversioned = bindings.unversioned
        self._known = bindings.known
        self._versions = frozenset(str(version).encode() for version in bindings.by_version)
        self._steps = {name.encode() for each in bindings.by_version.values() for name in each}
        self._bindings = bindings.by_version
        self._routes = {version: _routes(saga, each.values()) for version, each in bindings.by_version.items()}
        self._reports = _reports(self._routes.values())
        self._wanted = frozenset(ce_type for each in self._routes.values() for ce_type in each)
        self._owners = SecondOwners(participant)
        self._by_step: dict[bytes, tuple[StepMessage, type[Payload]]] = {
            wire_type(saga, Bar).encode(): (StepMessage.BAR, Bar),
            wire_type(saga, Retry).encode(): (StepMessage.RETRY, Retry),
        }

    def wants(self, headers: Sequence[Header]) -> bool:
        """Return whether a record may be for a step of any version; looks at three headers at most.

        All records of a version that is not registered are wanted. The version's header stands before the type.
        """
        for name, value in headers:
            if name == TYPE:
                if value in self._owners.steps:
                    self._owners.look(value, headers)
                return value in self._wanted or (value in self._by_step and _step_of(headers) in self._steps)
            if name == VERSION and self._is_unknown(value):
                return True
        return False

    def _is_unknown(self, version: bytes) -> bool:
        return version not in self._versions and version.isdigit()

    def reports_stray(self, topic: str, headers: Sequence[Header]) -> bool:
        """Return whether a record is a stray that this participant reports."""
        return self._strays is not None and self._strays.flaw(topic, headers) != ""

    def read(self, lane: int, record: Record) -> list[Message]:
        """Return the messages of a wanted record; none if it is for steps of other versions only.

        Raises `EnvelopeError` for invalid headers, a wrong key or a wrong partition.
        """
        headers = record.headers
        unknown = bool(headers) and headers[0][0] == VERSION and self._is_unknown(headers[0][1])
        if self._strays is not None and not unknown and (flaw := self._strays.flaw(record.topic, headers)):
            raise StrayError(flaw)
        envelope = Envelope.from_headers(headers)
        saga_id = _saga_id(record, envelope, self._partitions)
        if not 1 <= envelope.round <= MAX_ROUND:
            raise EnvelopeError(f"header ts_round is {envelope.round}; 1 to {MAX_ROUND} can be")
        ce_type = envelope.type.encode()
        routes = self._find(ce_type, headers, envelope.version)
        if not routes and ce_type not in self._wanted and ce_type not in self._by_step:
            raise EnvelopeError(f"header {TYPE} is there twice, and differs")
        return [Message(kind, binding, payload, lane, saga_id, envelope, record) for kind, binding, payload in routes]

    def _find(self, ce_type: bytes, headers: Sequence[Header], version: int) -> Sequence[Route]:
        if not version and (reports := self._reports.get(ce_type)) is not None:
            return reports
        routes = self._routes.get(version or self._unversioned)
        if routes is None:
            raise UnknownVersionError(f"{UNKNOWN_VERSION} {version}; this service knows {self._known}")
        if (by_step := self._by_step.get(ce_type)) is None:
            return routes.get(ce_type, ())
        step = _step_of(headers).decode("utf-8", "replace")
        binding = self._bindings[version or self._unversioned].get(step)
        return ((by_step[0], binding, by_step[1]),) if binding is not None else ()


def _routes(saga: str, bindings: Iterable[Binding]) -> dict[bytes, list[Route]]:
    """Return the routes of one version by wire type."""
    routes: dict[bytes, list[Route]] = {}
    for binding in bindings:
        step = binding.step
        named: list[tuple[StepMessage, type[Payload] | None]] = [(StepMessage.TRIGGER, event) for event in step.on]
        named += [
            (StepMessage.REPORT, step.waits_for),
            (StepMessage.COMPENSATE, step.back[0] if step.back is not None else None),
        ]
        for kind, payload in named:
            for each in (payload, *payload.EARLIER) if payload is not None else ():
                routes.setdefault(wire_type(saga, each).encode(), []).append((kind, binding, each))
    return routes


def _reports(routes: Iterable[dict[bytes, list[Route]]]) -> dict[bytes, list[Route]]:
    """Return, for each type of report, the steps of any version that wait for it, each name once."""
    found: dict[bytes, dict[str, Route]] = {}
    for each in routes:
        for ce_type, listed in each.items():
            for route in listed:
                if route[0] is StepMessage.REPORT:
                    found.setdefault(ce_type, {}).setdefault(route[1].step.name, route)
    return {ce_type: list(by_name.values()) for ce_type, by_name in found.items()}


def _step_of(headers: Sequence[Header]) -> bytes:
    for name, value in headers:
        if name == STEP:
            return value or b""
    return b""


class _Strays:
    """Finds commands that are for no step of the saga."""

    def __init__(self, participant: Participant) -> None:
        saga = participant.saga
        steps = [step for each in saga.versions.values() for step in each.steps]
        self._topic = commands_topic(saga.name)
        self._steps = {step.name.encode() for step in steps}
        self._by_step = {wire_type(saga.name, Bar).encode(), wire_type(saga.name, Retry).encode()}
        self._types = {wire_type(saga.name, step.back[0]).encode() for step in steps if step.back is not None}

    def flaw(self, topic: str, headers: Sequence[Header]) -> str:
        """Return why a command is for no step; empty if it is for one, and for records of other topics."""
        if topic != self._topic:
            return ""
        first = {name: value or b"" for name, value in reversed(headers)}
        ce_type, step = first.get(TYPE, b""), first.get(STEP, b"")
        if ce_type in self._by_step:
            return (
                "" if step in self._steps else f"the command is for step {_shown(step)}, which the saga does not have"
            )
        return "" if ce_type in self._types else f"the saga has no command of type {_shown(ce_type)}"


def _shown(header: bytes) -> str:
    return repr(header[:100].decode("utf-8", "replace"))


def _saga_id(record: Record, envelope: Envelope, partitions: int) -> UUID:
    """Return the saga's id; raises `EnvelopeError` for a record under another key or on another partition."""
    key = envelope.saga_id.encode()
    if record.key != key:
        raise EnvelopeError(f"the key is not the saga's id in header {SAGA_ID}")
    home = partition_of(key, partitions)
    if record.partition != home:
        raise EnvelopeError(f"the saga belongs to partition {home} of {record.topic}, not to {record.partition}")
    return read_id(envelope.saga_id)
