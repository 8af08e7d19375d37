"""What a participant says: facts on the events topic."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

from tradesaga.consumers.function_checks import answers_of, name_types
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
        """Read the value now, so that an unreadable one shows before anything is begun."""
        _ = self.event

    @classmethod
    def of(cls, message: Message) -> "Trigger":
        """Take the cause from a message that has just come."""
        return cls(message.envelope, message.value, message.payload)

    @classmethod
    def stored(cls, framed: bytes, payloads: Mapping[str, type[Payload]], check: Check) -> "Trigger":
        """Take the cause from a row's input; several make a join.

        `check` sees the version before anything is looked up. Raises `ValueError`, `LookupError`, what `check` does.
        """
        triggers: list[Trigger] = []
        for part in split_packed(framed):
            headers, value = unpack(part[_LENGTH:])
            envelope = Envelope.from_headers(headers)
            check(envelope.version)
            triggers.append(cls(envelope, value, payloads[envelope.type]))
        return triggers[0] if len(triggers) == 1 else _join(triggers)


def _join(triggers: Sequence[Trigger]) -> Trigger:
    """Give the last of a join's causes, its context merged from all by event name."""
    merged: dict[str, Any] = {}
    for trigger in triggers:
        merged.update(orjson.loads(trigger.envelope.context or b"{}"))
    last = triggers[-1]
    return Trigger(last.envelope._replace(context=orjson.dumps(merged)), last.value, last.payload)


def pack_message(message: Message) -> bytes:
    """Pack a message for a row."""
    return _framed(pack(message.record.headers, message.value))


def pack_trigger(trigger: Trigger) -> bytes:
    """Pack a cause for a row."""
    return _framed(pack(trigger.envelope.to_headers(), trigger.value))


def split_packed(framed: bytes | None) -> list[bytes]:
    """Take apart what `pack_message` and `pack_trigger` made, each part framed as it was."""
    found: list[bytes] = []
    while framed:
        end = _LENGTH + int.from_bytes(framed[:_LENGTH], "big")
        found.append(framed[:end])
        framed = framed[end:]
    return found


def _framed(packed: bytes) -> bytes:
    """Put the length (four bytes, big-endian) before a record, so that a join's several stand in one column."""
    return len(packed).to_bytes(_LENGTH, "big") + packed


VALUE_LIMIT = 256 * 1024


"""Bytes of one payload; with a context at its ceiling, and headers, it stays below the topic's `max.message.bytes`."""

CONTEXT_CEILING = 384 * 1024


"""Bytes of context with which a step is begun at all; a remote answer may then still be told whole."""

_SAID_CEILING = 640 * 1024


class EventFactory:
    """Makes the records of one participant."""

    def __init__(self, saga: str, participant: str, clock: Clock) -> None:
        self._saga = saga
        self._source = f"/{saga}/{participant}"
        self.topic = events_topic(saga)
        self._clock = clock

    def make_event(
        self, row: Row, trigger: Trigger | None, event: Event, value: bytes, *, back: bool = False
    ) -> Outgoing:
        """Make the fact `event` about `row`; the context is the cause's, unchanged."""
        context = trigger.envelope.context if trigger is not None else b""
        # Too large a context has been refused; the refusal must not be as large again.
        return self._make(row, trigger, event, value, context if len(context) <= _SAID_CEILING else b"", back=back)

    def make_success(self, row: Row, trigger: Trigger, event: Event, value: bytes) -> Outgoing:
        """Make the fact that a step has succeeded, which the saga's context takes in."""
        # What fits was checked before the effect; an effect that happened is told in any case.
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
        """Give the trace's next hop: the span of this attempt, where somebody records it."""
        ended = self._clock.now()
        return record_span(row.step, parent, row.started, ended, saga=self._saga, attempt=row.attempt)


class WrongAnswerError(TypeError):
    """A handler returned what is no answer of its step."""


def write_answer(step: AnyStep, event: object, *, back: bool) -> bytes:
    """Return the payload of an answer. Raises `WrongAnswerError`, and `ValueError` for one that JSON cannot hold."""
    allowed = answers_of(step, "back" if back else "forward")
    # A subclass has a wire type of its own, which nobody knows.
    if type(event) not in allowed:
        given = "None" if event is None else type(event).__name__
        raise WrongAnswerError(f"the handler returned {given}; {step.name!r} answers with {name_types(allowed)}")
    return cast("Event", event).to_wire()


def check_size(event: Event, value: bytes) -> None:
    """Refuse an answer too large to publish; raises `ContextTooLargeError`."""
    if len(value) > VALUE_LIMIT:
        raise ContextTooLargeError(f"{event.NAME} of {len(value)} bytes passes the limit of {VALUE_LIMIT}")


def check_fit(context: bytes, event: Event, value: bytes) -> None:
    """Refuse an answer that the saga's context cannot take in, while its effect can still be rolled back.

    Raises `ContextTooLargeError`.
    """
    check_size(event, value)
    splice(context, event.NAME, value)


def tidy(reason: str) -> str:
    """Make a reason fit for a fact: bounded, and without what UTF-8 or PostgreSQL cannot hold."""
    return reason.encode("utf-8", "replace").decode().replace("\0", "\\0")[:2000]
