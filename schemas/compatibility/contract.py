"""What may stand in a record of each wire type, as JSON Schema 2020-12: closed for writers, open for readers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic.json_schema import GenerateJsonSchema

from tradesaga.schemas.messages.message import Message

Schema = dict[str, Any]

_CLOSED: Final = "additionalProperties"


@dataclass(frozen=True, slots=True)
class Contract:
    """One wire type and the class behind it."""

    ce_type: str
    message: type[Message]

    def published(self) -> Schema:
        """Give the schema of what is written: no field but these."""
        return self._described(self.message.model_json_schema(mode="serialization"))

    def accepted(self) -> Schema:
        """Give the schema of what is read: fields of later versions are passed over."""
        opened: Schema = _opened(self.message.model_json_schema(mode="validation"))
        return self._described(opened)

    def _described(self, schema: Schema) -> Schema:
        return {"$schema": GenerateJsonSchema.schema_dialect, "$id": f"urn:tradesaga:{self.ce_type}", **schema}


def contracts_of(types: Iterable[tuple[str, type[Message]]]) -> dict[str, Contract]:
    """Give the contract of each (wire type, class), as a registry lists them."""
    return {ce_type: Contract(ce_type, message) for ce_type, message in types}


def _opened(schema: Any) -> Any:
    if isinstance(schema, dict):
        entries = cast("Schema", schema)
        return {key: _opened(value) for key, value in entries.items() if key != _CLOSED}
    if isinstance(schema, list):
        return [_opened(item) for item in cast("list[Any]", schema)]
    return schema
