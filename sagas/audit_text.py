"""Texts of a saga's own messages for the audit commands: sentences of `audit show` and order records of `audit export`.

All payloads are passed as they were recorded. Anyone may have written them, so members may be missing or of any type.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.errors import DefinitionError
from tradesaga.schemas.messages.message import Message

Members = Mapping[str, Any]
"""The members of a JSON object; for sentences, numbers are the text that was recorded."""
Sentence = str | Callable[[Members], str]
"""A template such as `"{amount} {asset} reserved"`, or a function of the payload."""

_NUMBERS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class RecordedMessage(NamedTuple):
    """A message of a saga: its wire type and its payload, empty if that is not a JSON object."""

    type: str
    payload: Members


@dataclass(frozen=True)
class OrderText:
    """Order records of one saga for `orders.csv`.

    Each message of the wire types `types` is one order record. `describe` returns the columns of these records from the
    saga's context, by message name, and its messages of these types in order.
    """

    types: Collection[str]
    describe: Callable[[Mapping[str, Any], Sequence[RecordedMessage]], Sequence[Mapping[str, str]]]


@dataclass(frozen=True)
class AuditText:
    """Texts of one saga, registered by an entry point of the group `tradesaga.audit_texts` or as a global of a module.

    `sentences` has the sentence of each message; other messages are described by their step and name. `completed`
    returns the headline of a completed saga from its context, by message name. Raises `DefinitionError` for a message
    that is not the saga's.
    """

    saga: AnySaga
    sentences: Mapping[type[Message], Sentence]
    completed: Callable[[Mapping[str, Members]], str] | None = None
    orders: OrderText | None = None

    def __post_init__(self) -> None:
        names = {message.NAME for message in self.saga.message_types.values()}
        if foreign := sorted(message.__name__ for message in self.sentences if message.NAME not in names):
            raise DefinitionError(
                f"{self.saga.name}: {', '.join(foreign)} has a sentence and is not one of its messages"
            )

    def sentence(self, message: str, payload: Members) -> str:
        """Return the sentence for a message by name; empty if it has none or the payload does not allow one."""
        found = next((sentence for kind, sentence in self.sentences.items() if message == kind.NAME), "")
        try:
            return found(payload) if callable(found) else found.format_map(_Texts(payload))
        except Exception:  # noqa: BLE001 - a forged payload must not keep the others from being shown
            return ""

    def headline(self, context: Mapping[str, Members]) -> str:
        """Return the headline of a completed saga; empty if it has none or the context does not allow one."""
        try:
            return self.completed(context) if self.completed is not None else ""
        except Exception:  # noqa: BLE001 - as above
            return ""


class _Texts(dict[str, str]):
    """The texts of a payload; a template shows which of its members are missing."""

    def __init__(self, payload: Members) -> None:
        super().__init__({name: text for name, text in payload.items() if isinstance(text, str)})

    def __missing__(self, name: str) -> str:
        return f"({name} missing)"


def text_of(payload: Members, name: str) -> str:
    """Return a member that is text, or an empty string."""
    found = payload.get(name)
    return found if isinstance(found, str) else ""


def count(number: int, what: str, many: str = "") -> str:
    """Return a number with its noun: `one step`, `three steps`, `12 steps`."""
    word = _NUMBERS[number] if number < len(_NUMBERS) else f"{number:,}"
    return f"{word} {what if number == 1 else many or what + 's'}"
