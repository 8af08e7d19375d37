"""Exact decimal arithmetic: amounts have eight decimals, and products are not rounded before that."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from typing import Final

ZERO: Final = Decimal(0)
SMALLEST: Final = Decimal("0.00000001")
CEILING: Final = Decimal(10) ** 18
"""Amounts are below this: messages and ledger store eighteen digits before the point."""
EXACT: Final = Context(prec=76, traps=[InvalidOperation, DivisionByZero, Overflow])


def multiply(*factors: Decimal) -> Decimal:
    """Multiply without rounding."""
    product = Decimal(1)
    for factor in factors:
        product = EXACT.multiply(product, factor)
    return product


def is_multiple(value: Decimal, part: Decimal) -> bool:
    """Return whether `value` is a multiple of `part`."""
    return not EXACT.remainder(value, part)


def round_up(value: Decimal, part: Decimal = SMALLEST) -> Decimal:
    """Round up to a multiple of `part`."""
    return _whole(value, part, ROUND_CEILING)


def round_down(value: Decimal, part: Decimal = SMALLEST) -> Decimal:
    """Round down to a multiple of `part`."""
    return _whole(value, part, ROUND_FLOOR)


def _whole(value: Decimal, part: Decimal, rounding: str) -> Decimal:
    # By integer division: the quotient may have no finite expansion, but its integer part and remainder are exact.
    below = EXACT.divide_int(value, part)
    rest = EXACT.subtract(value, EXACT.multiply(below, part))
    if rest < 0:
        below, rest = below - 1, rest + part
    if rest and rounding == ROUND_CEILING:
        below = EXACT.add(below, Decimal(1))
    return EXACT.multiply(below, part)
