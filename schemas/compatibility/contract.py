"""Contracts of wire types, as JSON Schema 2020-12: closed for writers, open for readers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic.json_schema import GenerateJsonSchema

from tradesaga.schemas.messages.message import Message

Schema = dict[str, Any]

_CLOSED: Final = "additionalProperties"


@dataclass(frozen=True, slots=True)
class Contract:
    """A wire type and its message class."""

    ce_type: str
    message: type[Message]

    def published(self) -> Schema:
        """Return the schema for writers: no additional fields."""
        return self._described(self.message.model_json_schema(mode="serialization"))

    def accepted(self) -> Schema:
        """Return the schema for readers: fields of later versions are ignored."""
        opened: Schema = _opened(self.message.model_json_schema(mode="validation"))
        return self._described(opened)

    def _described(self, schema: Schema) -> Schema:
        return {"$schema": GenerateJsonSchema.schema_dialect, "$id": f"urn:tradesaga:{self.ce_type}", **schema}


def contracts_of(types: Iterable[tuple[str, type[Message]]]) -> dict[str, Contract]:
    """Return the contracts of a registry's (wire type, class) pairs, by wire type."""
    return {ce_type: Contract(ce_type, message) for ce_type, message in types}


def _opened(schema: Any) -> Any:
    if isinstance(schema, dict):
        entries = cast("Schema", schema)
        return {key: _opened(value) for key, value in entries.items() if key != _CLOSED}
    if isinstance(schema, list):
        return [_opened(item) for item in cast("list[Any]", schema)]
    return schema
