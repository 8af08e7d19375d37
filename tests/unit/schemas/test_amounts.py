"""Amounts: decimal strings of one spelling, and nothing else."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tradesaga.schemas.amounts import Amount, Price, Quantity, SignedAmount, format_decimal
from tradesaga.schemas.messages.message import Event

DECIMALS = st.decimals(min_value=0, max_value=10**18 - 1, places=8, allow_nan=False, allow_infinity=False)


class Bill(Event):
    """One of each amount."""

    amount: Amount = Decimal(0)
    signed: SignedAmount = Decimal(0)
    price: Price = Decimal(1)
    quantity: Quantity = Decimal(1)


@given(DECIMALS, DECIMALS, st.booleans())
def test_an_amount_goes_over_the_wire_and_comes_back_the_same(amount: Decimal, signed: Decimal, negative: bool) -> None:
    """18 digits before the point and 8 after survive, to the last one; the wire has strings."""
    bill = Bill(amount=amount, signed=-signed if negative else signed)

    wire = bill.to_wire()

    assert Bill.from_wire(wire) == bill
    assert b'"amount":"' in wire
    assert b"E" not in wire


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1.2300", "1.23"), ("100", "100"), ("1E+3", "1000"), ("0.00000001", "0.00000001"), ("-0.0", "0"),
        ("0E-8", "0"),        ("-5.50", "-5.5"), ("999999999999999999.99999999", "999999999999999999.99999999"),
    ],
)  # fmt: skip
def test_a_value_has_one_spelling(value: str, text: str) -> None:
    """Hashes of a payload agree only if equal amounts are spelled alike."""
    assert format_decimal(Decimal(value)) == text


WRONG: list[Any] = [
    '"NaN"', '"sNaN"', '"Infinity"', '"-Infinity"', "NaN", "Infinity", '"1e5"', '"1E-3"', "1", "1.5", "true", "null",
    '""', '" 1"', '"1 "', '"1\\n"', '"+1"', '"01"', '"1."', '".5"', '"1,5"', '"1_000"', '"٣"', '"0x10"',
    '"1.123456789"',
    '"1000000000000000000"', '"' + "9" * 400 + '"', "[]", "{}",
]  # fmt: skip


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("field", ["amount", "signed", "price", "quantity"])
def test_whatever_is_no_plain_decimal_string_is_refused(field: str, value: str) -> None:
    """NaN, infinity, exponents, floats, over-precision, other digits, spaces and huge values never get in."""
    with pytest.raises(ValidationError, match=field):
        Bill.from_wire(f'{{"{field}": {value}}}'.encode())


@pytest.mark.parametrize(
    "value", [1.5, 1, Decimal("NaN"), Decimal("Infinity"), Decimal("1E+18"), Decimal("1E-9"), None, True]
)
def test_python_values_are_held_to_the_same(value: Any) -> None:
    """A program that makes a message with a float, or a Decimal out of bounds, is told at once."""
    with pytest.raises(ValidationError):
        Bill(amount=value)


@pytest.mark.parametrize(("field", "value"), [("amount", "-1"), ("price", "0"), ("quantity", "0.0"), ("price", "-2")])
def test_signs_and_zeros_are_refused_where_they_make_no_sense(field: str, value: str) -> None:
    """An amount is not negative; a price and a quantity are above zero; only a signed amount may go below."""
    with pytest.raises(ValidationError, match=field):
        Bill.from_wire(f'{{"{field}": "{value}"}}'.encode())
    assert Bill.from_wire(b'{"signed": "-1.5"}').signed == Decimal("-1.5")


def test_a_number_beyond_all_amounts_keeps_its_exponent() -> None:
    """Written out, ten characters would become a gigabyte; whatever reads amounts refuses them."""
    for text in ("1E+999999999", "-1E+999999999", "1E-999999999"):
        assert format_decimal(Decimal(text)) == text
        with pytest.raises(ValidationError):
            TypeAdapter(Amount).validate_python(Decimal(text))
