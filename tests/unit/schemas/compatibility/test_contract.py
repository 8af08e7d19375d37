"""The recorded contracts, and the gate that keeps every revision understood by every other."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydantic import create_model

from tradesaga.schemas.compatibility.contract import Contract, contracts_of
from tradesaga.schemas.compatibility.golden import SHIPPED, compare, read, record
from tradesaga.schemas.compatibility.rules import find_breaks
from tradesaga.schemas.messages.message import Event, Message, wire_type
from tradesaga.schemas.messages.signals import SignalRaised
from tradesaga.schemas.messages.trade import MESSAGES, TradeRequested, VenueReport
from tradesaga.schemas.registry import Registry

TYPES = [*Registry("trade", MESSAGES).items(), (wire_type("trade", SignalRaised), SignalRaised)]


def test_every_shipped_message_is_as_recorded() -> None:
    """A difference here is a change on the wire: record it if it is compatible, or make a new version."""
    assert list(compare(contracts_of(TYPES), SHIPPED)) == []
    assert len(read(SHIPPED)) == len(TYPES)


def test_writers_are_closed_and_readers_open_all_the_way_down() -> None:
    """Also inside a nested object, and without touching a field that happens to be called like the keyword."""

    class Tricky(Event):
        """Has a field named like a keyword."""

        properties: str

    report, tricky = Contract("x", VenueReport), Contract("y", Tricky)

    assert report.published()["additionalProperties"] is False
    assert report.published()["$defs"]["VenueFill"]["additionalProperties"] is False
    assert "additionalProperties" not in json.dumps(report.accepted())
    assert list(tricky.accepted()["properties"]) == ["properties"]
    assert report.published()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_amounts_are_described_as_decimal_strings() -> None:
    """A client in any language sees the pattern, written and read alike."""
    for schema in (Contract("x", TradeRequested).published(), Contract("x", TradeRequested).accepted()):
        quantity = schema["properties"]["quantity"]
        assert (quantity["type"], quantity["maxLength"]) == ("string", 28)
        assert quantity["pattern"].startswith("^(?:0|[1-9]")


def revised(**fields: Any) -> Contract:
    """Make a contract of one wire type with these fields."""
    message: type[Message] = create_model("Revised", __base__=Event, **fields)
    return Contract("trade.revised.v1", message)


BEFORE = Contract("x", VenueReport).published()


def changed(path: str, value: Any) -> dict[str, Any]:
    """Give the venue report's schema with one place changed; None removes it."""
    schema = deepcopy(BEFORE)
    *parents, last = path.split("/")
    place: Any = schema
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return schema


FEE = "$defs/VenueFill/properties/fee"
REQUIRED: list[str] = BEFORE["required"]
KINDS: list[str] = BEFORE["properties"]["kind"]["enum"]


@pytest.mark.parametrize(
    "after",
    [
        changed("properties/note", {"type": "string"}),
        changed("properties/reason", None),
        changed("properties/reason/description", "Said otherwise."),
        changed("properties/reason/default", "none"),
        changed("description", "Another sentence."),
    ],
    ids=["optional added", "optional removed", "described", "default", "prose"],
)
def test_what_old_and_new_programs_can_live_with(after: dict[str, Any]) -> None:
    """Optional fields come and go; prose is for people. It holds in both directions."""
    assert find_breaks(BEFORE, after) == []
    assert find_breaks(after, BEFORE) == []


@pytest.mark.parametrize(
    ("after", "what"),
    [
        (
            changed("properties/note", {"type": "string"}) | {"required": [*REQUIRED, "note"]},
            "note: a required field is added; old records do not have it",
        ),
        (changed("properties/kind", None), "kind: a required field is removed; old readers ask for it"),
        (BEFORE | {"required": REQUIRED[1:]}, "venue: becomes optional; old readers need it"),
        (BEFORE | {"required": [*REQUIRED, "reason"]}, "reason: becomes required; old records may lack it"),
        (changed("properties/venue/type", "integer"), "venue: type changes from 'string' to 'integer'"),
        (changed("properties/venue/maxLength", 10), "venue: maxLength changes from 500 to 10"),
        (changed("properties/venue/pattern", "^a$"), "venue: pattern changes from None to '^a$'"),
        (
            changed("properties/kind/enum", KINDS[:-1]),
            "kind: ['busted'] left the enumeration; new readers refuse old records",
        ),
        (
            changed("properties/kind/enum", [*KINDS, "odd"]),
            "kind: ['odd'] joined the enumeration; old readers refuse new records",
        ),
        (changed(f"{FEE}/pattern", "^0$"), "fill.fee: pattern changes from "),
        (changed("$defs/VenueFill/properties/fee", None), "fill.fee: a required field is removed"),
        (changed("properties/fill", {"type": "null"}), "fill: anyOf changes from "),
    ],
)
def test_what_breaks_one_side_or_the_other(after: dict[str, Any], what: str) -> None:
    """Each break names the field, also inside a nested object, and who is hurt."""
    assert any(found.startswith(what) for found in find_breaks(BEFORE, after))


def test_a_list_is_held_to_what_is_in_it() -> None:
    """The type of a list's items counts like a field's; so do its bounds."""
    before, after = revised(ids=(list[str], ...)).published(), revised(ids=(list[int], ...)).published()

    assert find_breaks(before, after) == ["ids[]: type changes from 'string' to 'integer'"]
    before["properties"]["ids"]["maxItems"] = 3
    assert find_breaks(before, revised(ids=(list[str], ...)).published()) == ["ids: maxItems changes from 3 to None"]


def test_a_field_called_like_a_keyword_is_a_field() -> None:
    """Only prose keywords are passed over, not fields that share their names."""
    before, after = revised(title=(str, ...)).published(), revised(title=(int, ...)).published()

    assert find_breaks(before, after) == ["title: type changes from 'string' to 'integer'"]


def test_every_earlier_revision_counts(tmp_path: Path) -> None:
    """A field that was there, went, and comes back as something else breaks against the first revision."""
    first, second = revised(a=(str, "x"), note=(str, "")), revised(a=(str, "x"))
    third = revised(a=(str, "x"), note=(int, 0))

    for contract in (first, second):
        assert record({contract.ce_type: contract}, tmp_path) == [contract.ce_type]
        assert record({contract.ce_type: contract}, tmp_path) == []

    assert list(compare({second.ce_type: second}, tmp_path)) == []
    assert find_breaks(second.published(), third.published()) == []
    broken = list(compare({third.ce_type: third}, tmp_path))
    assert [(each.what, each.breaks) for each in broken] == [("note: type changes from 'string' to 'integer'", True)]


def test_what_is_not_recorded_changed_or_gone_is_found(tmp_path: Path) -> None:
    """The gate asks for a recording of what is new, and for a reason to drop what old records still hold."""
    old, new = revised(a=(str, "x")), revised(a=(str, "x"), note=(str, ""))

    assert [each.what for each in compare({old.ce_type: old}, tmp_path / "none")] == ["is not recorded"]
    record({old.ce_type: old}, tmp_path)
    changed_ = list(compare({new.ce_type: new}, tmp_path))
    gone = list(compare({}, tmp_path))

    assert [(each.what, each.breaks) for each in changed_] == [("has changed compatibly", False)]
    assert [(each.ce_type, each.breaks) for each in gone] == [("trade.revised.v1", True)]
