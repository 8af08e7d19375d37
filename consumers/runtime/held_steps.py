"""When the rows of steps that a pause holds are looked at again."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from tradesaga.consumers.runtime.step_rows import HELD_FROM, HeldPage

PauseSet = frozenset[tuple[str, str]]
"""Scope and key of each pause."""


@dataclass(frozen=True, slots=True)
class HeldSteps:
    """The pauses that the last committed batch read, and the lanes whose held rows are still to be checked.

    Every held row was found paused under `pauses`, or is still to be checked. A pause that is added frees no row; if
    one is missing that was read before, all held rows are to be checked. So no pause ends unnoticed, not even one that
    is lifted between the read and the commit of the batch that holds a row because of it.

    `unchecked` gives by lane the due time after which its rows are to be checked; the lanes in `again` are then to be
    checked from their first row. `held` are the lanes in which rows were found paused.
    """

    pauses: PauseSet = frozenset()
    unchecked: Mapping[int, datetime] = field(default_factory=dict[int, datetime])
    again: frozenset[int] = frozenset()
    held: frozenset[int] = frozenset()

    def read(self, pauses: PauseSet) -> "HeldSteps":
        """Return the state after these pauses were read: if one has ended, all held rows are to be checked."""
        if self.pauses <= pauses:
            return replace(self, pauses=pauses)
        begun = {lane for lane, after in self.unchecked.items() if after != HELD_FROM}
        unchecked = {**self.unchecked, **dict.fromkeys(self.held - self.unchecked.keys(), HELD_FROM)}
        return HeldSteps(pauses, unchecked, self.again | begun)

    def of(self, lanes: Collection[int]) -> Mapping[int, datetime]:
        """Return those of `unchecked` that belong to these lanes."""
        return {lane: after for lane, after in self.unchecked.items() if lane in lanes}

    def checked(self, page: HeldPage, held: Collection[int]) -> "HeldSteps":
        """Return the state after a batch has checked a page; `held` are the lanes of the rows that it found paused."""
        done = page.lanes - page.following.keys()
        left = {lane: after for lane, after in self.unchecked.items() if lane not in done}
        unchecked = {**left, **page.following, **dict.fromkeys(done & self.again, HELD_FROM)}
        return HeldSteps(self.pauses, unchecked, self.again - done, self.held.union(held))
