"""Numbers that JSON cannot hold never reach the wire, and floats stand in no message of a saga."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, NewType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, SecretStr
from typing_extensions import TypedDict

from tradesaga.infra.starts.accept import StartInvalidError, read_start
from tradesaga.sagas import saga, seconds, step
from tradesaga.sagas.errors import DefinitionError
from tradesaga.schemas.json_fields import UnfitField, find_unfit_field
from tradesaga.schemas.messages.message import Event, NotFiniteError

Kilograms = NewType("Kilograms", float)


class Inner(BaseModel):
    """A value inside of a message."""

    weight: float


class Typed(TypedDict):
    """A dictionary inside of a message."""

    weight: float


@dataclass
class Plain:
    """A data class inside of a message."""

    weight: float


class Pair(NamedTuple):
    """A tuple inside of a message."""

    weight: float


class Rate(Enum):
    """A choice of floats."""

    HALF = 0.5


class Side(Enum):
    """A choice of texts."""

    BUY = "BUY"


class Nested(BaseModel):
    """A value that holds others of its kind."""

    inner: "Nested | None" = None
    weight: float


@pytest.mark.parametrize(
    "annotation",
    [float, float | None, list[float], dict[str, list[float]], Annotated[float, Field(gt=0)], Inner, list[Inner] | None,
     Typed, Plain, Kilograms, Pair, Rate, Literal[1, 0.5], RootModel[float], tuple[int, float], Nested],
)  # fmt: skip
def test_a_float_is_found_wherever_it_stands(annotation: Any) -> None:
    """In the field itself, and in what it holds."""
    message = type("Priced", (Event,), {"__module__": __name__, "__annotations__": {"text": str, "price": annotation}})
    assert find_unfit_field(message) == UnfitField(
        "price", "is a float, which is not exact and may be NaN; use Decimal, int or str"
    )


@pytest.mark.parametrize("annotation", [str, int, Decimal, bool, list[str], Any, dict[str, Decimal], Side, datetime])
def test_exact_types_hold_none(annotation: Any) -> None:
    """What is exact is let be."""
    message = type("Priced", (Event,), {"__module__": __name__, "__annotations__": {"price": annotation}})
    assert find_unfit_field(message) is None


@pytest.mark.parametrize(
    ("annotation", "sentence"),
    [
        (SecretStr, "Priced.price is written as asterisks, so its value is lost; use str"),
        (Callable[[], int], "Priced cannot be written as JSON"),
        ("Nowhere", "Priced cannot be written as JSON"),
    ],
)
def test_what_would_not_come_back_is_refused(annotation: Any, sentence: str) -> None:
    """When the saga is defined, not when the first message is written."""
    message = type(
        "Priced", (Event,), {"__module__": __name__, "__annotations__": {"price": annotation}}, name="priced"
    )
    with pytest.raises(DefinitionError, match=sentence):
        saga("odd", version=1, deadline=seconds(5)).then(step("one", on=Began, emits=message))


class Loose(Event):
    """A message that takes anything."""

    note: str = ""
    detail: Any = None


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_json_cannot_hold_is_refused_with_its_field(number: float) -> None:
    """However deep it stands."""
    with pytest.raises(NotFiniteError, match=r"Loose\.detail\.a\.1 is (NaN|-?Infinity), which is no JSON number"):
        Loose(detail={"a": [1, number]}).to_wire()


FINITE = st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NESTED = st.recursive(FINITE, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(st.text(), NESTED)
def test_what_is_written_can_be_read(note: str, detail: Any) -> None:
    """Texts that read like such a number are texts."""
    for message in (Loose(note=note, detail=detail), Loose(note="NaN, Infinity", detail=detail)):
        assert Loose.from_wire(message.to_wire()).note == message.note


class Began(Event):
    """A start that takes anything."""

    idempotency_key: str
    account: str
    detail: Any = None


@pytest.mark.parametrize("number", ["1e999", "-1e999", '{"deep": [1e400]}'])
def test_a_start_with_a_number_past_all_bounds_is_refused(number: str) -> None:
    """JSON can spell what no float holds; it never gets as far as the events topic."""
    began = saga("bounds", version=1, deadline=seconds(5)).then(step("one", on=Began, emits=Loose))
    with pytest.raises(StartInvalidError, match=r"Began\.detail.* is -?Infinity"):
        read_start(began, f'{{"idempotency_key": "k", "account": "a", "detail": {number}}}'.encode())
