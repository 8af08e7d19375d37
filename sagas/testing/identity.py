"""Doing and then taking back must leave nothing behind."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

Seen = TypeVar("Seen")


async def assert_compensation_restores(
    look: Callable[[], Awaitable[Seen]],
    do: Callable[[], Awaitable[object]],
    compensate: Callable[[], Awaitable[object]],
) -> None:
    """Hold `undo` to bringing back what `look` saw before `do`; raises `AssertionError` saying what differs.

    `look` must give a value of its own (balances, not the live object), and see what `do` changes: a look that sees
    no change could not see what was left behind either.
    """
    before = await look()
    await do()
    if (between := await look()) == before:
        raise AssertionError(f"what is looked at does not change when the step is done: {between!r}")
    await compensate()
    if (after := await look()) != before:
        raise AssertionError(f"taking the step back left {after!r}, not {before!r}")
