"""Decimal amounts: strings on the wire, `Decimal` in Python, never a float.

The bounds (18 digits before the point, 8 after) fit `numeric(26, 8)` in PostgreSQL.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_UNSIGNED: Final = r"(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,8})?"
_EXPONENT_LIMIT: Final = 1000
"""Power of ten above which a number is written with an exponent: `1e999999999` would be a gigabyte of zeros."""


def format_decimal(value: Decimal) -> str:
    """Format `value` without an exponent or trailing zeros: the one spelling, so that hashes agree.

    A number far beyond any amount keeps its exponent, and is rejected wherever an amount is read.
    """
    if abs(value.adjusted()) > _EXPONENT_LIMIT:
        return str(value)
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"", "-0"} else text


class DecimalText:
    """Pydantic type of a decimal string with a pattern: no JSON numbers, no NaN, no exponent."""

    def __init__(self, pattern: str, *, positive: bool = False) -> None:
        self._pattern = pattern
        self._read = _read_positive if positive else Decimal

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Build the schema: a string from JSON; a string or `Decimal` from Python."""
        text: CoreSchema = core_schema.str_schema(pattern=self._pattern, max_length=28)
        wire = core_schema.no_info_after_validator_function(self._read, text)
        value = core_schema.no_info_before_validator_function(_spell, wire)
        return core_schema.json_or_python_schema(
            json_schema=wire,
            python_schema=value,
            serialization=core_schema.plain_serializer_function_ser_schema(format_decimal, return_schema=text),
        )


def _read_positive(text: str) -> Decimal:
    value = Decimal(text)
    if value <= 0:
        raise ValueError("must be above zero")
    return value


def _spell(value: Any) -> Any:
    spelled: Callable[[Decimal], str] = format_decimal
    return spelled(value) if isinstance(value, Decimal) and value.is_finite() else value


Price = Annotated[Decimal, DecimalText(rf"^{_UNSIGNED}$", positive=True)]
Quantity = Annotated[Decimal, DecimalText(rf"^{_UNSIGNED}$", positive=True)]
Amount = Annotated[Decimal, DecimalText(rf"^{_UNSIGNED}$")]
SignedAmount = Annotated[Decimal, DecimalText(rf"^-?{_UNSIGNED}$")]
