"""A state holds so many ids of contradictions and of decisions, and no more, whoever sends them."""

import pytest

from tests.sagas import small_saga
from tradesaga.sagas import machine
from tradesaga.sagas.facts import Fact, Meaning
from tradesaga.sagas.machine import Machine
from tradesaga.sagas.status import Status

MACHINE = Machine(small_saga())
_ENOUGH = 4


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold few ids."""
    monkeypatch.setattr(machine, "KNOWN_IDS", _ENOUGH)


def contradicted(*ids: int) -> machine.State:
    """Return the state of a saga that has done all its steps and is contradicted by these."""
    facts = [Fact(Meaning.STARTED), *(Fact(Meaning.DONE, step) for step in range(4))]
    state = MACHINE.begin()
    for fact in [*facts, *(Fact(Meaning.CONTRADICTED, 2, id=str(each)) for each in ids)]:
        state = MACHINE.fold(state, fact).state
    return state


def test_contradictions_beyond_the_known_ones_are_counted() -> None:
    """Those that are known count once however often they come; the saga is FAILED with either."""
    state = contradicted(*range(_ENOUGH), *range(_ENOUGH), 100, 101)
    assert (len(state.contradictions), state.more_contradictions, state.contradicted) == (_ENOUGH, 2, _ENOUGH + 2)
    assert MACHINE.status(state) is Status.FAILED


def test_a_contradiction_behind_a_decision_opens_the_saga_again() -> None:
    """Also one whose id is not held: a person is asked once more rather than never."""
    resolved = Fact(Meaning.RESOLVE, id="d", outcome=Status.COMPLETED)
    folded = MACHINE.fold(contradicted(*range(_ENOUGH + 2)), resolved)
    assert folded.status is Status.COMPLETED
    assert MACHINE.fold(folded.state, Fact(Meaning.CONTRADICTED, 2, id="0")).status is Status.COMPLETED
    assert MACHINE.fold(folded.state, Fact(Meaning.CONTRADICTED, 2, id="later")).status is Status.FAILED


def test_decisions_are_held_in_bounded_numbers() -> None:
    """The one that came last is always among them."""
    state = MACHINE.begin()
    for number in range(3 * _ENOUGH):
        state = MACHINE.fold(state, Fact(Meaning.SKIP, 0, id=str(number))).state
        assert str(number) in state.decisions
        assert len(state.decisions) <= _ENOUGH
