"""What a fact is said because of: the record that set the step off, whether it has just come or was kept in the row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tradesaga.consumers.runtime.message import Message
from tradesaga.infra.kafka.codec import pack, unpack
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.message import Message as Payload

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
