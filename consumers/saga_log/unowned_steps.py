"""What the saga log has to publish of steps that nobody owns: a page at a time, and nothing twice until it is folded.

Whoever reports a page waits until its facts have been folded. So however many sagas are late, the records of others
wait behind one page of facts at most, and nothing grows with the number.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from uuid import UUID

from tradesaga.consumers.saga_log.checkpoint import Tracked
from tradesaga.consumers.saga_log.rules import Rules
from tradesaga.sagas.machine import State

Steps = Collection[str]


class UnownedSteps:
    """Sagas that wait for steps nobody owns: those to publish, and those whose facts have not been folded yet."""

    def __init__(self) -> None:
        self.pending: Mapping[UUID, Steps] = {}
        self._published: dict[UUID, Steps] = {}
        self._settled = asyncio.Event()
        self._settled.set()

    def clear(self) -> None:
        """Forget everything, as lanes change hands; what is still missing is found again."""
        self.pending = {}
        self._published.clear()
        self._settled.set()

    def report(self, found: Mapping[UUID, Steps]) -> None:
        """Have these, in place of what was pending, published with the next batch; facts under way are not repeated."""
        self.pending = {each: found[each] for each in found.keys() - self._published.keys()}
        self._settle()

    async def settled(self, seconds: float) -> None:
        """Wait until all that was reported is published and folded, or these seconds have passed."""
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            return  # a lane that is far behind holds up its own sagas alone

    def committed(self, taken: Mapping[UUID, Steps], published: Mapping[UUID, Steps]) -> None:
        """Note what a batch has taken of `pending`, and what it has published of that."""
        if not taken:
            return
        self.pending = {saga: steps for saga, steps in self.pending.items() if saga not in taken}
        self._published.update(published)
        self._settle()

    def folded(self, rules: Rules, sagas: Mapping[UUID, Tracked], touched: Iterable[UUID]) -> None:
        """Note that records of these sagas have been folded: what is published of one counts now, or is parked."""
        if not self._published:
            return
        for saga_id in self._published.keys() & touched:
            if not awaited_of(rules, sagas[saga_id], self._published[saga_id]):
                del self._published[saga_id]
        self._settle()

    def _settle(self) -> None:
        if self.pending or self._published:
            self._settled.clear()
        else:
            self._settled.set()


def awaited_of(rules: Rules, tracked: Tracked, unowned: Steps) -> set[str]:
    """Return what `awaited_unowned` does, of a saga as its lane's owner knows it."""
    checkpoint = tracked.checkpoint
    if checkpoint is None or checkpoint.sealed:
        return set()
    return awaited_unowned(rules, checkpoint.version, checkpoint.state, unowned, parked=bool(tracked.parked))


def awaited_unowned(rules: Rules, version: int, state: State | None, unowned: Steps, *, parked: bool) -> set[str]:
    """Return those of the steps without an owner that a saga waits for past its deadline, and that it was not told of.

    None where it could not count: `state` cannot be read (None), records wait (`parked`) that it would wait behind, or
    a person has resolved the saga.
    """
    own = rules.versions.get(version)
    if own is None or state is None or not state.overdue or state.resolved is not None:
        return set()
    if parked and not state.unblocked:
        return set()
    return {*own.machine.names(own.machine.awaited(state) & ~state.unowned)} & {*unowned}
