"""Owners that follow the row rules and a log that follows the machine, with everything late, twice and reordered."""

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.properties.bustle import Bustle
from tests.properties.definitions import sagas
from tests.properties.order_rules import check_order
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.facts import Meaning
from tradesaga.sagas.machine import BarStep, CompensateStep, State, StepCommand
from tradesaga.sagas.status import Status
from tradesaga.sagas.step_state import RowStatus
from tradesaga.sagas.testing import InMemoryRun
from tradesaga.sagas.testing.in_memory_run import Answer


def refolded(play: InMemoryRun) -> State:
    """Fold the whole topic from its start, as a rebuild from Kafka alone would."""
    state = play.machine.begin()
    for fact in play.facts[: play.folded]:
        state = play.machine.fold(state, fact).state
    return state


class Troupe(RuleBasedStateMachine):
    """Plays one random saga in a random order of events, then lets it come to rest and looks at what stands."""

    @initialize(saga=sagas(), remote=st.sets(st.integers(0, 6)), patience=st.integers(1, 12))
    def begin(self, saga: AnySaga, remote: set[int], patience: int) -> None:
        """Raise the curtain; `patience` is the number of facts before anybody turns back."""
        self.patience = patience
        self.delivered = self.drained = 0
        self.play = InMemoryRun(saga, remote=[f"step-{index}" for index in remote])

    @rule(facts=st.integers(1, 4))
    def fold(self, facts: int) -> None:
        """Let the saga log read on; whatever it orders must be allowed by what it knows."""
        for _ in range(min(facts, len(self.play.facts) - self.play.folded)):
            for order in self.play.fold():
                check_order(self.play, order)

    @precondition(lambda self: bool(self._fresh()))
    @rule(data=st.data())
    def trigger(self, data: st.DataObject) -> None:
        """Deliver a trigger for the first time."""
        step = data.draw(st.sampled_from(self._fresh()))
        self.play.trigger(step, data.draw(st.sampled_from(self._answers(step))))

    @rule(data=st.data())
    def trigger_again(self, data: st.DataObject) -> None:
        """Deliver a trigger that has come before; what the handler would say now must not matter."""
        known = [index for index, part in enumerate(self.play.parts) if part.status is not None]
        step = data.draw(st.sampled_from(known)) if known else 0
        if known and self.play.triggered(step):
            self.play.trigger(step, data.draw(st.sampled_from(self._answers(step))))

    @precondition(lambda self: bool(self._under_way()))
    @rule(data=st.data())
    def far_side(self, data: st.DataObject) -> None:
        """Let the far side take a call, or the network lose it, or the outside report."""
        step = data.draw(st.sampled_from(self._under_way()))
        if self.play.is_waiting(step):
            self.play.report(step, happened=data.draw(st.booleans()))
            self.play.conclude(step)
        else:
            data.draw(st.sampled_from([self.play.land, self.play.lose, self.play.time_out]))(step)

    @precondition(lambda self: bool(self._under_way()))
    @rule(data=st.data(), last=st.booleans())
    def settle(self, data: st.DataObject, last: bool) -> None:
        """Let an owner drive on what is due."""
        step = data.draw(st.sampled_from(self._under_way()))
        self.play.settle(step, data.draw(st.sampled_from(self._answers(step))), last=last)

    @precondition(lambda self: self.delivered < len(self.play.orders))
    @rule(fails=st.integers(0, 3))
    def deliver(self, fails: int) -> None:
        """Deliver the next command; a compensation may fail."""
        self.play.deliver(self.play.orders[self.delivered], fail=fails == 1)
        self.delivered += 1

    @precondition(lambda self: bool(self.play.orders))
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        """Deliver any command given so far, out of order or again."""
        self.play.deliver(data.draw(st.sampled_from(self.play.orders)))

    @precondition(lambda self: self.play.folded > 1)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Let a fact that is on the topic come again, under the same id."""
        self.play.facts.append(data.draw(st.sampled_from(self.play.facts)))

    @precondition(lambda self: len(self.play.facts) >= self.patience)
    @rule(meaning=st.sampled_from([Meaning.DEADLINE, Meaning.ABORT, Meaning.RECHECK]))
    def turn_back(self, meaning: Meaning) -> None:
        """Let the deadline pass, or an operator abort, or have every owner asked what came of its step."""
        self.play.publish(meaning)

    @precondition(lambda self: self.play.state.overdue)
    @rule(data=st.data())
    def miss(self, data: st.DataObject) -> None:
        """Let the saga log say that it knows of nobody who owns a step, though somebody does."""
        self.play.publish(Meaning.UNOWNED, data.draw(self._steps()))

    @precondition(lambda self: self.play.status is Status.FAILED)
    @rule(data=st.data(), meaning=st.sampled_from([Meaning.RETRY, Meaning.RETRY, Meaning.SKIP]))
    def mend(self, data: st.DataObject, meaning: Meaning) -> None:
        """Let an operator try again what failed, or leave it; now and then what has not failed."""
        mendable = {RowStatus.FAILED, RowStatus.COMPENSATION_FAILED}
        aims = [index for index, part in enumerate(self.play.parts) if part.status in mendable] or [0]
        self.play.publish(meaning, data.draw(st.sampled_from(aims) | self._steps()))
        self._drain()

    @precondition(lambda self: self.play.status in {Status.COMPENSATING, Status.FAILED})
    @rule()
    def rest(self) -> None:
        """Let everybody do once whatever is due."""
        self._drain()

    def teardown(self) -> None:
        """Let everything come to rest: then no promise is broken, and nothing hangs."""
        if not hasattr(self, "play"):
            return
        for _ in range(200):
            before = self._seen()
            self._drain()
            if self._seen() == before:
                break

        assert self.play.find_broken() == ""
        assert refolded(self.play) == self.play.state

    def _drain(self) -> None:
        while self.play.folded < len(self.play.facts):
            self.fold(1)
        for index, order in enumerate(list(self.play.orders)):
            if index >= self.drained:
                self.play.deliver(order)
            elif isinstance(order, CompensateStep) or not self._answered(order):
                self._deliver_quietly(order)
        self.drained = len(self.play.orders)
        for step in self._fresh():
            self.play.trigger(step)
        for step in range(len(self.play.parts)):
            self.play.land(step)
            self.play.settle(step)
            if self.play.is_waiting(step):
                self.play.report(step, happened=True)
                self.play.conclude(step)

    def _deliver_quietly(self, order: StepCommand) -> None:
        """Deliver what has not been answered; repeats of answers would keep the topic growing for ever."""
        part = self.play.parts[order.step]
        if isinstance(order, CompensateStep) and part.status is not RowStatus.DONE and part.back_round >= order.round:
            return
        self.play.deliver(order)

    def _answered(self, order: StepCommand) -> bool:
        settled = self.play.parts[order.step].status not in {None, RowStatus.INTENT, RowStatus.RETRY, RowStatus.WAITING}
        part = self.play.parts[order.step]
        return settled if isinstance(order, BarStep) else part.round >= getattr(order, "round", 0)

    def _seen(self) -> tuple[Any, ...]:
        rows = tuple((part.status, part.round, part.back_round, part.stands) for part in self.play.parts)
        return self.play.state, len(self.play.facts), rows

    def _fresh(self) -> list[int]:
        return [
            index for index, part in enumerate(self.play.parts) if part.status is None and self.play.triggered(index)
        ]

    def _under_way(self) -> list[int]:
        driven = {RowStatus.INTENT, RowStatus.RETRY, RowStatus.WAITING}
        return [index for index, part in enumerate(self.play.parts) if part.status in driven]

    def _steps(self) -> st.SearchStrategy[int]:
        return st.integers(0, len(self.play.parts) - 1)

    def _answers(self, step: int) -> list[Answer]:
        refusable = self.play.saga.steps[step].rejects is not None and not self.play.is_waiting(step)
        return [Answer.DONE, Answer.DONE, Answer.DONE, Answer.RAISED, *([Answer.REFUSED] if refusable else [])]


TestTroupe = Troupe.TestCase
TestTroupe.settings = settings(max_examples=60, stateful_step_count=40)


@settings(max_examples=300)
@given(sagas(), st.sets(st.integers(0, 6)), st.integers(0, 2**32))
def test_a_bustling_saga_comes_to_rest_with_every_promise_kept(saga: AnySaga, remote: set[int], seed: int) -> None:
    """Crowded runs, with failures, losses, deadlines and operators: whole, taken back, or FAILED for a reason."""
    play = InMemoryRun(saga, remote=[f"step-{index}" for index in remote])

    Bustle(play, random.Random(seed)).run()

    assert play.find_broken() == ""
    assert refolded(play) == play.state
