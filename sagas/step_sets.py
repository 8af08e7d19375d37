"""Sets of steps as bit masks, bit i for step i, and tuples with one round for each step."""

from collections.abc import Iterator


def bits(steps: int) -> Iterator[int]:
    """Iterate over the members of a set of steps, lowest first."""
    while steps:
        low = steps & -steps
        yield low.bit_length() - 1
        steps ^= low


def equal_rounds(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Return the set of steps that have the same round in both."""
    same = 0
    for index, (one, other) in enumerate(zip(left, right, strict=True)):
        if one == other:
            same |= 1 << index
    return same


def with_round(rounds: tuple[int, ...], index: int, value: int) -> tuple[int, ...]:
    """Return the rounds with another value for one step."""
    return (*rounds[:index], value, *rounds[index + 1 :])
