"""A good payload of every message, found by trial: what it says does not matter, that it is valid does."""

from typing import Any, Final

import orjson
from pydantic import ValidationError

from tradesaga.schemas.messages.message import Message

_TRIALS: Final = 200
_GUESSES: Final[tuple[Any, ...]] = (
    "a1", "1", "10.5", "EUR/USD", "2026-11-23T14:03:07.120000000Z", "3f2b6c1e-0d4a-4b6e-9a57-1c2d3e4f5a6b", 1, True,
    "a" * 64, ["a1"], ["1"], {}, [],
)  # fmt: skip


def specimen(message: type[Message]) -> bytes:
    """Give a valid payload. Raises `LookupError` naming the field for which no guess will do."""
    guesses = (*_GUESSES, *_words(message))
    required = [name for name, field in message.model_fields.items() if field.is_required()]
    chosen = dict.fromkeys(required, 0)
    for _ in range(_TRIALS):
        guess = {name: guesses[index] for name, index in chosen.items()}
        try:
            return message.model_validate_json(orjson.dumps(guess)).to_wire()
        except ValidationError as error:
            wrong = {str(each["loc"][0]) for each in error.errors(include_url=False) if each["loc"]} or set(required)
        for name in wrong:
            chosen[name] = chosen.get(name, -1) + 1
            if chosen[name] >= len(guesses):
                raise LookupError(f"{message.__qualname__}.{name}: no guess is valid")
    raise LookupError(f"{message.__qualname__}: no guess is valid")


def _words(message: type[Message]) -> list[str]:
    """Give the words that the message's enumerations know."""
    schema = message.model_json_schema()
    found: list[str] = []
    for part in (*schema.get("$defs", {}).values(), *schema.get("properties", {}).values()):
        found += part.get("enum", [])
    return found
