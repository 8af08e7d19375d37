"""Check that old and new programs can read each other's records after a schema change.

Full and transitive: records are kept for ever and deployments overlap, so every earlier revision counts, both ways.

change                                      verdict
add or remove an optional field             fine: readers are open
add, remove, tighten or loosen a required   break
change a type, a pattern or a bound         break
remove from an enumeration, or add to it    break: readers of the one reject values of the other
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

Schema = Mapping[str, Any]

_PROSE: Final = {"title", "description", "default", "examples", "$schema", "$id", "$defs"}


def find_breaks(old: Schema, new: Schema) -> list[str]:
    """Return, a sentence each, the incompatibilities between programs of one schema and records of the other."""
    return list(_compare("", _resolve(old, old), _resolve(new, new)))


def _compare(path: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if "properties" in old and "properties" in new:
        yield from _compare_objects(path, old, new)
    elif "enum" in old and "enum" in new:
        yield from _compare_enums(path, old["enum"], new["enum"])
    elif old.get("type") == new.get("type") == "array":
        yield from _compare(f"{path}[]", old.get("items", {}), new.get("items", {}))
        yield from _compare_rest(path, _without(old, "items"), _without(new, "items"))
    elif "anyOf" in old and "anyOf" in new and len(old["anyOf"]) == len(new["anyOf"]):
        for before, after in zip(old["anyOf"], new["anyOf"], strict=True):
            yield from _compare(path, before, after)
    else:
        yield from _compare_rest(path, old, new)


def _compare_objects(path: str, old: Schema, new: Schema) -> Iterator[str]:
    before, after = old["properties"], new["properties"]
    needed_before, needed_after = set(old.get("required", ())), set(new.get("required", ()))
    for name in sorted(before.keys() | after.keys()):
        where = f"{path}.{name}" if path else name
        if name not in before:
            if name in needed_after:
                yield f"{where}: a required field is added; old records do not have it"
        elif name not in after:
            if name in needed_before:
                yield f"{where}: a required field is removed; old readers ask for it"
        else:
            if (name in needed_before) != (name in needed_after):
                became = (
                    "required; old records may lack it" if name in needed_after else "optional; old readers need it"
                )
                yield f"{where}: becomes {became}"
            yield from _compare(where, before[name], after[name])


def _compare_enums(path: str, old: list[Any], new: list[Any]) -> Iterator[str]:
    if gone := [value for value in old if value not in new]:
        yield f"{path}: {gone} left the enumeration; new readers refuse old records"
    if added := [value for value in new if value not in old]:
        yield f"{path}: {added} joined the enumeration; old readers refuse new records"


def _compare_rest(path: str, old: Schema, new: Schema) -> Iterator[str]:
    for keyword in sorted(old.keys() | new.keys()):
        before, after = old.get(keyword), new.get(keyword)
        if before != after:
            yield f"{path}: {keyword} changes from {before!r} to {after!r}"


def _resolve(schema: Any, root: Schema) -> Any:
    """Inline definitions, and leave out titles, descriptions and other documentation."""
    if isinstance(schema, list):
        return [_resolve(item, root) for item in cast("list[Any]", schema)]
    if not isinstance(schema, Mapping):
        return schema
    entries = cast("Schema", schema)
    if (reference := entries.get("$ref")) is not None:
        return _resolve(root["$defs"][reference.rsplit("/", 1)[1]], root)
    return {key: _resolve_entry(key, value, root) for key, value in entries.items() if key not in _PROSE}


def _resolve_entry(key: str, value: Any, root: Schema) -> Any:
    """Resolve one entry; inside `properties` every key is a field, also `title`."""
    if key == "properties":
        return {name: _resolve(each, root) for name, each in value.items()}
    return _resolve(value, root)


def _without(schema: Schema, keyword: str) -> Schema:
    return {key: value for key, value in schema.items() if key != keyword}
