"""Outcomes of attempts, the triggers stored in step rows, and the events that a participant publishes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast
from uuid import UUID

import orjson

from tradesaga.consumers.function_checks import name_types
from tradesaga.consumers.runtime.message import Message
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.infra.clock import Clock, format_time, new_id
from tradesaga.infra.kafka.codec import Outgoing, pack, unpack
from tradesaga.infra.telemetry.tracing import record_span
from tradesaga.sagas.step import AnyStep
from tradesaga.schemas.envelope import ContextTooLargeError, Envelope, splice
from tradesaga.schemas.messages.message import Event, wire_type
from tradesaga.schemas.messages.message import Message as Payload
from tradesaga.schemas.topics import events_topic


@dataclass(frozen=True, slots=True)
class Answered:
    """The handler returned an event: success, rejection or compensation."""

    event: Event
    value: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt did not happen; `final` if every further attempt would fail too, `hung` if it timed out."""

    reason: str
    final: bool = False
    hung: bool = False


@dataclass(frozen=True, slots=True)
class Deferred:
    """The attempt was not run: the batch has no time left for it."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The attempt may have happened; `first_report` if that was not known before."""

    reason: str
    first_report: bool = True


@dataclass(frozen=True, slots=True)
class NotFound:
    """The remote system has no such request; conclusive only once the attempt has expired there."""


@dataclass(frozen=True, slots=True)
class Reported:
    """The remote system's reports for a waiting step."""

    reports: Sequence[Event]


Outcome = Answered | Failed | Deferred | Unknown | NotFound | Reported


class CallKind(Enum):
    """The kinds of remote calls."""

    CALL = "call"
    QUERY = "query"
    COMPENSATE = "compensate"
    POLL = "poll"
    BAR = "bar"


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished remote call; it is ignored unless the row is still at the attempt for which it was made.

    `lane` is the row's lane when the call was scheduled; a later message may have moved the row to another one.
    """

    saga_id: UUID
    step: str
    kind: CallKind
    attempt: int
    outcome: Outcome
    lane: int

    @property
    def key(self) -> tuple[UUID, str]:
        """Return the key of the call's row."""
        return self.saga_id, self.step


_LENGTH = 4

Check = Callable[[int], None]
"""Raises for a version of a saga's definition that is not registered here."""


@dataclass(slots=True)
class Trigger:
    """An envelope, a value, and the class to read it with."""

    envelope: Envelope
    value: bytes
    payload: type[Payload]
    _event: Payload | None = None

    @property
    def event(self) -> Any:
        """Read the value, once; raises `pydantic.ValidationError`."""
        if self._event is None:
            self._event = self.payload.from_wire(self.value).upcast()
        return self._event

    def read(self) -> None:
        """Read the value now, so that an unreadable one is found before an attempt starts."""
        _ = self.event

    @classmethod
    def of(cls, message: Message) -> "Trigger":
        """Make the trigger from a message."""
        return cls(message.envelope, message.value, message.payload)

    @classmethod
    def stored(cls, framed: bytes, payloads: Mapping[str, type[Payload]], check: Check) -> "Trigger":
        """Read the trigger from a row's input; several are joined into one.

        `check` is called with the version first. Raises `ValueError`, `LookupError`, and what `check` raises.
        """
        triggers: list[Trigger] = []
        for part in split_packed(framed):
            headers, value = unpack(part[_LENGTH:])
            envelope = Envelope.from_headers(headers)
            check(envelope.version)
            triggers.append(cls(envelope, value, payloads[envelope.type]))
        return triggers[0] if len(triggers) == 1 else _join(triggers)


def _join(triggers: Sequence[Trigger]) -> Trigger:
    """Return the last trigger of a join, with the contexts of all merged by event name."""
    merged: dict[str, Any] = {}
    for trigger in triggers:
        merged.update(orjson.loads(trigger.envelope.context or b"{}"))
    last = triggers[-1]
    return Trigger(last.envelope._replace(context=orjson.dumps(merged)), last.value, last.payload)


def pack_message(message: Message) -> bytes:
    """Pack a message to be stored in a row."""
    return _framed(pack(message.record.headers, message.value))


def pack_trigger(trigger: Trigger) -> bytes:
    """Pack a trigger to be stored in a row."""
    return _framed(pack(trigger.envelope.to_headers(), trigger.value))


def split_packed(framed: bytes | None) -> list[bytes]:
    """Split what `pack_message` and `pack_trigger` packed; each part keeps its length prefix."""
    found: list[bytes] = []
    while framed:
        end = _LENGTH + int.from_bytes(framed[:_LENGTH], "big")
        found.append(framed[:end])
        framed = framed[end:]
    return found


def _framed(packed: bytes) -> bytes:
    """Prefix a record with its length (four bytes, big-endian), so that the triggers of a join share one column."""
    return len(packed).to_bytes(_LENGTH, "big") + packed


VALUE_LIMIT = 256 * 1024
"""Bytes of a payload; with the largest context and the headers, it stays below the topic's `max.message.bytes`."""

CONTEXT_CEILING = 384 * 1024
"""Bytes of context above which no step starts, so that there is room for a remote answer."""

_PUBLISHED_CEILING = 640 * 1024


class EventFactory:
    """Makes the records that one participant publishes."""

    def __init__(self, saga: str, participant: str, clock: Clock) -> None:
        self._saga = saga
        self._source = f"/{saga}/{participant}"
        self.topic = events_topic(saga)
        self._clock = clock

    def make_event(
        self, row: Row, trigger: Trigger | None, event: Event, value: bytes, *, back: bool = False
    ) -> Outgoing:
        """Make the record of `event` for `row`, with the trigger's context."""
        context = trigger.envelope.context if trigger is not None else b""
        # A context that is too large has failed the step; the failure must not carry it.
        return self._make(row, trigger, event, value, context if len(context) <= _PUBLISHED_CEILING else b"", back=back)

    def make_success(self, row: Row, trigger: Trigger, event: Event, value: bytes) -> Outgoing:
        """Make the record of a step's success, with the event added to the saga's context."""
        # The size was checked before the effect; an effect that has happened is published in any case.
        context = splice(trigger.envelope.context, event.NAME, value, limit=CONTEXT_CEILING + 2 * VALUE_LIMIT)
        return self._make(row, trigger, event, value, context, back=False)

    def _make(
        self, row: Row, trigger: Trigger | None, event: Event, value: bytes, context: bytes, *, back: bool
    ) -> Outgoing:
        made = trigger.envelope if trigger is not None else None
        envelope = Envelope(
            type=wire_type(self._saga, type(event)),
            id=str(new_id()),
            source=self._source,
            saga_id=str(row.saga_id),
            time=format_time(self._clock.now()),
            causation=made.id if made else "",
            traceparent=self._hop(row, made.traceparent) if made else "",
            tracestate=made.tracestate if made else "",
            step=row.step,
            request=made.request if made else "",
            round=row.back_round if back else row.round,
            attempt=row.back_attempt if back else row.attempt,
            started=row.started,
            context=context,
            version=made.version if made and made.version > 1 else 0,
        )
        return Outgoing.of(self.topic, envelope, value)

    def _hop(self, row: Row, parent: str) -> str:
        """Record the span of this attempt, if tracing is on, and return the `traceparent` of the next hop."""
        ended = self._clock.now()
        return record_span(row.step, parent, row.started, ended, saga=self._saga, attempt=row.attempt)


class WrongAnswerError(TypeError):
    """A handler returned an event that its step does not emit."""


def write_answer(step: AnyStep, event: object, *, back: bool) -> bytes:
    """Return the payload of an answer. Raises `WrongAnswerError`, and `ValueError` for one that JSON cannot hold."""
    allowed = step.back_answers if back else step.answers
    # A subclass would have another wire type, which no reader knows.
    if type(event) not in allowed:
        given = "None" if event is None else type(event).__name__
        raise WrongAnswerError(f"the handler returned {given}; {step.name!r} answers with {name_types(allowed)}")
    return cast("Event", event).to_wire()


def check_size(event: Event, value: bytes) -> None:
    """Raise `ContextTooLargeError` for an answer too large to publish."""
    if len(value) > VALUE_LIMIT:
        raise ContextTooLargeError(f"{event.NAME} of {len(value)} bytes passes the limit of {VALUE_LIMIT}")


def check_fit(context: bytes, event: Event, value: bytes) -> None:
    """Raise `ContextTooLargeError` for an answer that does not fit the saga's context.

    To be called while the effect can still be rolled back.
    """
    check_size(event, value)
    splice(context, event.NAME, value)


def tidy(reason: str) -> str:
    """Return a reason that UTF-8 and PostgreSQL can store, cut to 2000 characters."""
    return reason.encode("utf-8", "replace").decode().replace("\0", "\\0")[:2000]
