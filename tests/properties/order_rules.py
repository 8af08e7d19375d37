"""When an order may be given, read from the facts that were folded rather than from the machine that gave it.

A recheck has all that came before it said again, so facts and orders count from the last one that was taken.
"""

from tradesaga.sagas.facts import Meaning
from tradesaga.sagas.machine import BarStep, CompensateStep, StepCommand
from tradesaga.sagas.step import StepKind
from tradesaga.sagas.testing import InMemoryRun
from tradesaga.sagas.validation import ancestors, predecessors

OUTCOMES = (Meaning.DONE, Meaning.REFUSED, Meaning.BARRED, Meaning.FAILED)


def check_order(play: InMemoryRun, order: StepCommand) -> None:
    """Hold one order, just given, to the rules; raises `AssertionError` naming the one that is broken."""
    kind = play.saga.steps[order.step].kind
    if isinstance(order, BarStep):
        assert kind is not StepKind.RETRIABLE, "no bar goes past the pivot"
        assert order.step in _ready(play), "only what has been triggered is outstanding"
        assert order.step not in _settled(play), "what has answered is not asked again"
    elif isinstance(order, CompensateStep):
        _check_compensation(play, order)
    else:
        assert kind is StepKind.RETRIABLE, "only what must succeed is run again"


def _check_compensation(play: InMemoryRun, order: CompensateStep) -> None:
    done, settled = _heard(play, Meaning.DONE), _settled(play)
    pivots = {index for index, each in enumerate(play.saga.steps) if each.kind is StepKind.PIVOT}
    orders = play.orders[_since(play)[1] :]
    bars = {each.step for each in orders if isinstance(each, BarStep)}
    before = ancestors(predecessors(play.saga.steps))
    standing = done - _heard(play, Meaning.COMPENSATED) - _heard(play, Meaning.COMPENSATION_FAILED) - _given_up(play)
    earlier = [each for each in orders if isinstance(each, CompensateStep) and each != order]

    assert order.step in done, "what is not known to have happened is not taken back"
    assert not pivots & done, "past the pivot nothing is taken back"
    assert bars <= settled, "every bar is answered first"
    assert _ready(play) <= settled, "nothing is outstanding"
    assert not any(before[each] >> order.step & 1 for each in standing), "last step first"
    assert all(_is_answered(play, each) for each in earlier), "one at a time"


def _heard(play: InMemoryRun, meaning: Meaning) -> set[int]:
    return {fact.step for fact in play.facts[_since(play)[0] : play.folded] if fact.meaning is meaning}


def _since(play: InMemoryRun) -> tuple[int, int]:
    """Return how many facts had been folded, and orders given, before the last recheck that was taken."""
    rechecks = [(each.folded, each.orders) for each in play.decided if each.fact.meaning is Meaning.RECHECK]
    return rechecks[-1] if rechecks else (0, 0)


def _settled(play: InMemoryRun) -> set[int]:
    return _given_up(play).union(*(_heard(play, meaning) for meaning in OUTCOMES))


def _given_up(play: InMemoryRun) -> set[int]:
    """Return the steps without whose owner's word a person has had the saga go on, since the last recheck."""
    skips = [each for each in play.decided if each.fact.meaning is Meaning.SKIP and each.folded >= _since(play)[0]]
    return {each.fact.step for each in skips}


def _ready(play: InMemoryRun) -> set[int]:
    """Give the steps before and at the pivot whose triggers are all known."""
    done, before = _heard(play, Meaning.DONE), predecessors(play.saga.steps)
    early = [index for index, each in enumerate(play.saga.steps) if each.kind is not StepKind.RETRIABLE]
    return {index for index in early if all(other in done for other in range(index) if before[index] >> other & 1)}


def _is_answered(play: InMemoryRun, order: CompensateStep) -> bool:
    about = (fact for fact in play.facts[_since(play)[0] : play.folded] if fact.step == order.step)
    return order.step in _given_up(play) or any(
        fact.meaning is Meaning.COMPENSATED
        or (fact.meaning is Meaning.COMPENSATION_FAILED and fact.round >= order.round)
        for fact in about
    )
