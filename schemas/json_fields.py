"""Find fields of messages that JSON cannot represent exactly.

Fields are checked by the JSON schema of what pydantic writes, so only their form on the wire matters.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

from pydantic import PydanticUserError

from tradesaga.schemas.messages.message import Message

_ONE: Final = ("items", "additionalProperties", "contains", "propertyNames")
_MANY: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED: Final = ("properties", "patternProperties")
_DEFINITIONS: Final = "#/$defs/"


class UnfitField(NamedTuple):
    """A field that is unfit for the wire and why; without a name, the whole message is."""

    name: str
    why: str


@lru_cache(4096)
def find_unfit_field(message: type[Message]) -> UnfitField | None:
    """Return the first field that is not JSON, is a float, or is masked when written; None if there is none.

    The value of an `Any` field is checked when it is written.
    """
    try:
        schema = message.model_json_schema(mode="serialization")
    except PydanticUserError as error:
        return UnfitField("", f"cannot be written as JSON ({str(error.message).splitlines()[0]})")
    definitions = schema.get("$defs", {})
    own = _resolved(schema, definitions)
    for name, field in own.get("properties", {}).items():
        if why := next(_faults(field, definitions, set()), ""):
            return UnfitField(name, why)
    return None


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref", "")
    return definitions[reference.removeprefix(_DEFINITIONS)] if reference else schema


def _faults(schema: Mapping[str, Any], definitions: Mapping[str, Any], seen: set[str]) -> Iterator[str]:
    reference = schema.get("$ref", "")
    if reference in seen:
        return
    if reference:
        seen.add(reference)
        schema = _resolved(schema, definitions)
    constants = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]
    if schema.get("type") == "number" or any(isinstance(each, float) for each in constants):
        yield "is a float, which is not exact and may be NaN; use Decimal, int or str"
    if schema.get("writeOnly"):
        yield "is written as asterisks, so its value is lost; use str"
    for inner in _inside(schema):
        yield from _faults(inner, definitions, seen)


def _inside(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas nested in this one."""
    for keyword in _ONE:
        if isinstance(schema.get(keyword), dict):
            yield schema[keyword]
    for keyword in _MANY:
        yield from cast("list[Mapping[str, Any]]", schema.get(keyword, []))
    for keyword in _NAMED:
        yield from cast("dict[str, Mapping[str, Any]]", schema.get(keyword, {})).values()
