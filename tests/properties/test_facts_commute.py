"""Between deadlines and decisions, the order and the number of step facts make no difference."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.definitions import marks, sagas, step_facts
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.facts import Fact, Meaning
from tradesaga.sagas.machine import CompensateStep, Machine, State


@st.composite
def histories(draw: st.DrawFn) -> tuple[AnySaga, list[list[Fact]], list[Fact]]:
    """Draw a saga, stretches of step facts, and the marks that stand between the stretches."""
    saga = draw(sagas())
    steps = len(saga.steps)
    between = draw(st.lists(marks(steps), max_size=4))
    stretches = [draw(st.lists(step_facts(steps), max_size=8)) for _ in range(len(between) + 1)]
    stretches[0].insert(0, Fact(Meaning.STARTED))
    return saga, stretches, between


def fold_all(machine: Machine, stretches: list[list[Fact]], between: list[Fact]) -> State:
    """Fold stretch, mark, stretch, … and give the end without the notes of what was asked for on the way."""
    state = machine.begin()
    for index, stretch in enumerate(stretches):
        for fact in stretch + between[index : index + 1]:
            state = machine.fold(state, fact).state
    return state._replace(bar_asked=0, undo_asked=machine.begin().undo_asked, to_ask=0)


@given(histories(), st.randoms(use_true_random=False))
def test_permuting_and_repeating_step_facts_changes_nothing(
    history: tuple[AnySaga, list[list[Fact]], list[Fact]], chance: random.Random
) -> None:
    """Any order, any repeats, any saga: the same end, and the same state of everything said."""
    saga, stretches, between = history
    machine = Machine(saga)
    shuffled = [_shuffle(stretch, chance) for stretch in stretches]

    one, other = fold_all(machine, stretches, between), fold_all(machine, shuffled, between)

    assert one == other
    assert machine.status(one) is machine.status(other)


def _shuffle(stretch: list[Fact], chance: random.Random) -> list[Fact]:
    repeated = [fact for fact in stretch for _ in range(chance.randint(1, 3))]
    chance.shuffle(repeated)
    return repeated


@given(histories(), st.data())
def test_a_decision_counts_once(history: tuple[AnySaga, list[list[Fact]], list[Fact]], data: st.DataObject) -> None:
    """The same decision, coming again at any later place, changes neither state nor status."""
    saga, stretches, between = history
    machine = Machine(saga)
    state = machine.begin()
    decided: list[Fact] = []
    for index, stretch in enumerate(stretches):
        for fact in stretch + between[index : index + 1]:
            state = machine.fold(state, fact).state
            decided += [fact] if fact.meaning.by_operator else []
    if decided:
        again = machine.fold(state, data.draw(st.sampled_from(decided)))

        assert again.state.decisions == state.decisions
        assert again.status is machine.status(state)
        assert again.refusal == ""


@given(histories())
def test_what_was_done_is_never_forgotten(history: tuple[AnySaga, list[list[Fact]], list[Fact]]) -> None:
    """Sets only grow, rounds only rise: no fact unsays another, but for a recheck, after which all is said again."""
    saga, stretches, between = history
    machine = Machine(saga)
    state = machine.begin()
    for index, stretch in enumerate(stretches):
        for fact in stretch + between[index : index + 1]:
            folded = machine.fold(state, fact)
            after, said = folded.state, ("done", "refused", "barred", "unknown", "compensated", "bar_asked")
            rechecked = fact.meaning is Meaning.RECHECK and after.decisions != state.decisions and not folded.refusal
            for members in () if rechecked else said:
                assert getattr(state, members) & ~getattr(after, members) == 0
            for rounds in ("rounds", "undo_rounds", *(() if rechecked else ("failed", "undo_failed", "undo_asked"))):
                assert all(old <= new for old, new in zip(getattr(state, rounds), getattr(after, rounds), strict=True))
            assert state.contradictions <= after.contradictions
            assert state.unowned & ~after.unowned == 0
            state = after


@given(histories())
def test_a_recheck_believes_nothing_that_was_said_of_the_steps(
    history: tuple[AnySaga, list[list[Fact]], list[Fact]],
) -> None:
    """Whatever came before, only the first steps are asked then, and nothing is taken back on old words."""
    saga, stretches, between = history
    machine = Machine(saga)
    before = fold_all(machine, stretches, between)

    folded = machine.fold(before, Fact(Meaning.RECHECK, id="recheck"))

    first = {index for index, step in enumerate(saga.steps) if step.on == (saga.start,)}
    if not folded.refusal:
        assert sorted(order.step for order in folded.orders) == sorted(first)
        assert not any(isinstance(order, CompensateStep) for order in folded.orders)
        assert (folded.state.done, folded.state.compensated) == (0, 0)
