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
class Cause:
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
    def of(cls, message: Message) -> "Cause":
        """Take the cause from a message that has just come."""
        return cls(message.envelope, message.value, message.payload)

    @classmethod
    def stored(cls, framed: bytes, payloads: Mapping[str, type[Payload]], check: Check) -> "Cause":
        """Take the cause from a row's input; several make a join.

        `check` sees the version before anything is looked up. Raises `ValueError`, `LookupError`, what `check` does.
        """
        causes: list[Cause] = []
        for part in split(framed):
            headers, value = unpack(part[_LENGTH:])
            envelope = Envelope.from_headers(headers)
            check(envelope.version)
            causes.append(cls(envelope, value, payloads[envelope.type]))
        return causes[0] if len(causes) == 1 else _join(causes)


def _join(causes: Sequence[Cause]) -> Cause:
    """Give the last of a join's causes, its context merged from all by event name."""
    merged: dict[str, Any] = {}
    for cause in causes:
        merged.update(orjson.loads(cause.envelope.context or b"{}"))
    last = causes[-1]
    return Cause(last.envelope._replace(context=orjson.dumps(merged)), last.value, last.payload)


def keep(message: Message) -> bytes:
    """Pack a message for a row."""
    return _framed(pack(message.record.headers, message.value))


def frame(cause: Cause) -> bytes:
    """Pack a cause for a row."""
    return _framed(pack(cause.envelope.to_headers(), cause.value))


def split(framed: bytes | None) -> list[bytes]:
    """Take apart what `keep` and `frame` made, each part framed as it was."""
    found: list[bytes] = []
    while framed:
        end = _LENGTH + int.from_bytes(framed[:_LENGTH], "big")
        found.append(framed[:end])
        framed = framed[end:]
    return found


def _framed(packed: bytes) -> bytes:
    """Put the length (four bytes, big-endian) before a record, so that a join's several stand in one column."""
    return len(packed).to_bytes(_LENGTH, "big") + packed
