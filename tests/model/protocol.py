"""The rules by which a model's parties act: the shipped ones, each of which can be replaced by a broken one."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tradesaga.sagas.decide import StepMessage, Transition, decide
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.facts import Fact, Meaning
from tradesaga.sagas.machine import Machine, State, StepCommand
from tradesaga.sagas.status import Status
from tradesaga.sagas.step import AnyStep
from tradesaga.sagas.step_state import StepState


@dataclass(frozen=True, slots=True)
class Known:
    """What the saga log has made of the topic up to a point; `stale`: it takes an old round's failure for news."""

    state: State
    status: Status
    orders: frozenset[StepCommand]
    stale: bool = False


Decide = Callable[[StepState, StepMessage, AnyStep, int], Transition]


@dataclass
class Protocol:
    """Machine and row rules, and the liberties that a broken implementation would take."""

    machine: Machine
    decide: Decide = decide
    believes_not_found: bool = False
    two_rows: bool = False
    publishes_first: bool = False
    joins_early: bool = False
    overdraws: bool = False
    facts: list[Fact] = field(default_factory=list[Fact])
    _numbers: dict[Fact, int] = field(default_factory=dict[Fact, int])
    _known: dict[bytes, Known] = field(default_factory=dict[bytes, Known])

    def number(self, fact: Fact) -> int:
        """Give the number that stands for a fact on the model's topic."""
        found = self._numbers.get(fact)
        if found is None:
            found = self._numbers[fact] = len(self.facts)
            self.facts.append(fact)
        return found

    def fold(self, log: bytes) -> Known:
        """Fold the topic, one fact after another, remembering every prefix."""
        known = self._known.get(log)
        if known is None:
            known = self._known[log] = self._fold(log)
        return known

    def _fold(self, log: bytes) -> Known:
        if not log:
            begun = self.machine.begin()
            return Known(begun, self.machine.status(begun), frozenset())
        before = self.fold(log[:-1])
        folded = self.machine.fold(before.state, self.facts[log[-1]])
        stale = folded.status is Status.FAILED and not self._failing(log, folded.state)
        return Known(folded.state, folded.status, before.orders.union(folded.orders), stale)

    def _failing(self, log: bytes, state: State) -> bool:
        """Say, from the facts alone, whether anything that counts now can have made the saga FAILED."""
        passed = self.machine.passed(state)
        for fact in (self.facts[number] for number in log):
            match fact.meaning:
                case Meaning.CONTRADICTED:
                    return True
                case Meaning.COMPENSATION_FAILED if fact.round == state.undo_rounds[fact.step]:
                    return True
                case Meaning.FAILED if passed and fact.round == state.rounds[fact.step]:
                    return True
                case Meaning.REFUSED | Meaning.BARRED if passed:
                    return True
                case Meaning.UNOWNED if not (state.done | state.refused | state.barred) >> fact.step & 1:
                    return True
                case Meaning.UNOWNED if state.contradictions:  # it came after a person had closed the saga
                    return True
                case _:
                    continue
        return False


def shipped(saga: AnySaga) -> Protocol:
    """Give the rules as they are."""
    return Protocol(Machine(saga))
