"""Registry of message classes by wire type."""

from collections.abc import Iterable

from tradesaga.schemas.messages.lifecycle import MESSAGES as LIFECYCLE
from tradesaga.schemas.messages.message import Message, wire_type


class UnknownMessageError(LookupError):
    """No class is registered for this wire type; deploy a release that has it, or discard the record."""


class Registry:
    """All messages of a saga, its own and those of every saga, in each version that is still read."""

    def __init__(self, saga: str, messages: Iterable[type[Message]]) -> None:
        self.saga = saga
        self._by_type: dict[str, type[Message]] = {}
        given = (*LIFECYCLE, *messages)
        for message in (*given, *(earlier for each in given for earlier in each.EARLIER)):
            known = self._by_type.setdefault(wire_type(saga, message), message)
            if known is not message:
                raise ValueError(f"{saga}: {known.__qualname__} and {message.__qualname__} share one wire type")

    def __contains__(self, message: type[Message]) -> bool:
        """Return whether this class is registered."""
        return self._by_type.get(wire_type(self.saga, message)) is message

    def find(self, ce_type: str) -> type[Message]:
        """Return the class of a wire type; raises `UnknownMessageError`."""
        try:
            return self._by_type[ce_type]
        except KeyError:
            raise UnknownMessageError(f"no message {ce_type!r} is registered for saga {self.saga!r}") from None

    def items(self) -> Iterable[tuple[str, type[Message]]]:
        """Return (wire type, class) pairs, sorted by wire type."""
        return sorted(self._by_type.items())
