"""Recorded contracts: one JSON file for each wire type, with its schemas now and before."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from tradesaga.schemas.compatibility.contract import Contract, Schema
from tradesaga.schemas.compatibility.rules import find_breaks

SHIPPED: Traversable = files("tradesaga.schemas.compatibility") / "recorded"
"""The contracts of the messages that come with this package."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem of one wire type; `breaks` if it needs a new version, not only a new recording."""

    ce_type: str
    what: str
    do: str
    breaks: bool


def compare(contracts: Mapping[str, Contract], folder: Traversable) -> Iterator[Finding]:
    """Compare every contract with every revision recorded in the folder; yields the problems."""
    recorded = read(folder)
    for ce_type in sorted(recorded.keys() - contracts.keys()):
        yield Finding(ce_type, "is recorded, yet no message is registered for it", "keep it to read old records", True)
    for ce_type, contract in sorted(contracts.items()):
        if ce_type not in recorded:
            yield Finding(ce_type, "is not recorded", "record it", False)
            continue
        breaks = _breaks(contract.published(), recorded[ce_type])
        for what in breaks:
            yield Finding(ce_type, what, "give the message a new version", True)
        if not breaks and _record(contract, recorded[ce_type]) != recorded[ce_type]:
            yield Finding(ce_type, "has changed compatibly", "record it", False)


def record(contracts: Mapping[str, Contract], folder: Path) -> list[str]:
    """Write new and changed contracts; returns their wire types."""
    recorded = read(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    for ce_type, contract in sorted(contracts.items()):
        entry = _record(contract, recorded.get(ce_type))
        if entry != recorded.get(ce_type):
            text = json.dumps(entry, indent=2, ensure_ascii=False) + "\n"
            (folder / f"{ce_type}.json").write_text(text, encoding="utf-8")
            written.append(ce_type)
    return written


def read(folder: Traversable) -> dict[str, Schema]:
    """Read the recordings of a folder, by wire type; a missing folder has none."""
    if not folder.is_dir():
        return {}
    names = [file for file in folder.iterdir() if file.name.endswith(".json")]
    return {file.name.removesuffix(".json"): json.loads(file.read_text(encoding="utf-8")) for file in names}


def _breaks(published: Schema, entry: Mapping[str, Any]) -> list[str]:
    found = [what for earlier in (entry["publishes"], *entry["earlier"]) for what in find_breaks(earlier, published)]
    return list(dict.fromkeys(found))


def _record(contract: Contract, entry: Mapping[str, Any] | None) -> Schema:
    published = contract.published()
    earlier: list[Schema] = list(entry["earlier"]) if entry else []
    if entry and entry["publishes"] != published:
        earlier.append(entry["publishes"])
    return {"publishes": published, "accepts": contract.accepted(), "earlier": earlier}
