"""Rounds in which every system runs in turn, so that a machine that grows slower slows all; a budget ends them."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar


class Named(Protocol):
    """What is measured in a round."""

    @property
    def name(self) -> str:
        """The name in tables and progress."""
        ...


Say = Callable[[str], None]
S = TypeVar("S", bound=Named)
T = TypeVar("T")


def in_rounds(
    systems: Sequence[S], rounds: int, budget: float | None, measure: Callable[[S], Iterable[T]], say: Say
) -> list[T]:
    """Measure all systems in each round; a round that would not end within the budget is not begun."""
    began, longest, samples = time.monotonic(), 0.0, list[T]()
    for number in range(rounds):
        spent = time.monotonic() - began
        if budget is not None and number and spent + longest > budget:
            say(f"{number} rounds are all that fit into {budget / 60:.0f} minutes")
            break
        for system in _turned(systems, number):
            say(f"round {number + 1} of {rounds}: {system.name}")
            samples += measure(system)
        longest = max(longest, time.monotonic() - began - spent)
    return samples


def _turned(systems: Sequence[S], number: int) -> Sequence[S]:
    """Begin each round with another one."""
    first = number % len(systems)
    return (*systems[first:], *systems[:first])
