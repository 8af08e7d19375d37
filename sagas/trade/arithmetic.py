"""Exact arithmetic: eight decimals are money's smallest part, and no product is rounded on the way there."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from typing import Final

ZERO: Final = Decimal(0)
SMALLEST: Final = Decimal("0.00000001")
CEILING: Final = Decimal(10) ** 18
"""Amounts stay below this: eighteen digits before the point are what the wire and the ledger can hold."""
EXACT: Final = Context(prec=76, traps=[InvalidOperation, DivisionByZero, Overflow])


def multiply(*factors: Decimal) -> Decimal:
    """Multiply without rounding."""
    product = Decimal(1)
    for factor in factors:
        product = EXACT.multiply(product, factor)
    return product


def is_multiple(value: Decimal, part: Decimal) -> bool:
    """Tell whether `value` is a whole number of `part`s."""
    return not EXACT.remainder(value, part)


def round_up(value: Decimal, part: Decimal = SMALLEST) -> Decimal:
    """Round towards plus infinity to a whole number of `part`s."""
    return _whole(value, part, ROUND_CEILING)


def round_down(value: Decimal, part: Decimal = SMALLEST) -> Decimal:
    """Round towards minus infinity to a whole number of `part`s."""
    return _whole(value, part, ROUND_FLOOR)


def _whole(value: Decimal, part: Decimal, rounding: str) -> Decimal:
    # Compared by whole parts: the quotient may have no end, its whole part and the remainder are exact.
    below = EXACT.divide_int(value, part)
    rest = EXACT.subtract(value, EXACT.multiply(below, part))
    if rest < 0:
        below, rest = below - 1, rest + part
    if rest and rounding == ROUND_CEILING:
        below = EXACT.add(below, Decimal(1))
    return EXACT.multiply(below, part)
