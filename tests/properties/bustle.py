"""A crowded run: every party acts at random, with the mishaps of a bad day, until nothing is left to do."""

import random
from collections.abc import Callable, Iterator
from functools import partial

from tests.properties.order_rules import check_order
from tradesaga.sagas.facts import Meaning
from tradesaga.sagas.status import Status
from tradesaga.sagas.step_state import RowStatus
from tradesaga.sagas.testing import InMemoryRun
from tradesaga.sagas.testing.in_memory_run import Answer

Act = Callable[[], None]
BUSY = 60
"""Acts with mishaps; afterwards everything is only let come to rest."""
ENOUGH = 2_000
MENDABLE = {RowStatus.FAILED, RowStatus.COMPENSATION_FAILED}


class Bustle:
    """One run, and how many of its commands have been delivered in their order."""

    def __init__(self, play: InMemoryRun, chance: random.Random) -> None:
        self.play = play
        self.chance = chance
        self.delivered = 0
        self.mishaps = True
        self.turns_back = chance.random() < 0.4

    def run(self) -> None:
        """Let everybody act until the saga has come to rest, holding each order to the rules."""
        for count in range(ENOUGH):
            self.mishaps = count < BUSY
            acts = [*self._due(), *self._disturbances()] if self.mishaps else list(self._due())
            if not acts:
                return
            self.chance.choice(acts)()
        raise AssertionError(f"no rest after {ENOUGH} acts; the saga is {self.play.status}")

    def _due(self) -> Iterator[Act]:
        """List what moves the saga on."""
        if self.play.folded < len(self.play.facts):
            yield from [self._fold] * 3
        if self.delivered < len(self.play.orders):
            yield from [self._deliver] * 3
        for step, part in enumerate(self.play.parts):
            if part.status is None and self.play.triggered(step):
                yield partial(self.play.trigger, step, self._answer(step))
            elif part.status is RowStatus.WAITING:
                report = partial(self.play.report, step, happened=not self._mishap(0.3))
                yield partial(self.play.conclude, step) if part.closed else report
            elif part.status in {RowStatus.INTENT, RowStatus.RETRY}:
                yield self._drive(step)

    def _drive(self, step: int) -> Act:
        if self.play.parts[step].calling:
            return partial(self.play.lose if self._mishap(0.3) else self.play.land, step)
        return partial(self.play.settle, step, self._answer(step), last=self._mishap(0.4))

    def _disturbances(self) -> Iterator[Act]:
        """List what may come at any time, and must not matter, or only as it should."""
        steps = range(len(self.play.parts))
        step = self.chance.choice(steps)
        if self.play.parts[step].status is not None and self.play.triggered(step):
            yield partial(self.play.trigger, step, self._answer(step))
        if self.play.parts[step].status is RowStatus.INTENT:
            yield partial(self.play.time_out, step)
        if self.play.orders and self._mishap(0.5):
            yield partial(self.play.deliver, self.chance.choice(self.play.orders))
        if self._mishap(0.3):
            yield partial(self.play.facts.append, self.chance.choice(self.play.facts))
        yield from self._turns(step)
        if self.play.status is Status.FAILED:
            aims = [index for index in steps if self.play.parts[index].status in MENDABLE] or [step]
            meaning = Meaning.SKIP if self._mishap(0.2) else Meaning.RETRY
            yield from [partial(self.play.publish, meaning, self.chance.choice(aims))] * 2

    def _turns(self, step: int) -> Iterator[Act]:
        """List what turns a saga back, and what is said of a step's owner though it is there."""
        if self.turns_back and self._mishap(0.1):
            yield partial(self.play.publish, self.chance.choice([Meaning.DEADLINE, Meaning.ABORT]))
        if self._mishap(0.03):
            yield partial(self.play.publish, Meaning.RECHECK)
        if self.play.state.overdue and self._mishap(0.1):
            yield partial(self.play.publish, Meaning.UNOWNED, step)

    def _fold(self) -> None:
        for order in self.play.fold():
            check_order(self.play, order)

    def _deliver(self) -> None:
        self.delivered += 1
        self.play.deliver(self.play.orders[self.delivered - 1], fail=self._mishap(0.3))

    def _mishap(self, likely: float) -> bool:
        return self.mishaps and self.chance.random() < likely

    def _answer(self, step: int) -> Answer:
        refusable = self.play.saga.steps[step].rejects is not None and not self.play.is_waiting(step)
        if refusable and self._mishap(0.15):
            return Answer.REFUSED
        return Answer.RAISED if self._mishap(0.2) else Answer.DONE
