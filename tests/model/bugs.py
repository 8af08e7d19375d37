"""Planted bugs: ways to build this wrong, each of which has cost somebody money."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tests.model.protocol import Protocol, shipped
from tests.model.scene import Part
from tests.model.small_trade import small_trade
from tradesaga.sagas.decide import Action, StepMessage, Transition, decide
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.facts import Fact, Meaning
from tradesaga.sagas.machine import BarStep, CompensateStep, Folded, Machine, State, StepCommand
from tradesaga.sagas.status import Status
from tradesaga.sagas.step import AnyStep
from tradesaga.sagas.step_state import RowStatus, StepState

Make = Callable[[AnySaga], Protocol]


class NeverBars(Machine):
    """Takes back at once, without settling what is outstanding."""

    def _outstanding(self, state: State) -> int:
        return 0


class TakesBackEarly(Machine):
    """Bars, but does not wait for the answers."""

    def _due(self, state: State, orders: tuple[StepCommand, ...] = (), refusal: str = "") -> Folded:
        folded = super()._due(state, orders, refusal)
        if folded.status is not Status.COMPENSATING or not self._left(folded.state):
            return folded
        state, orders = self._compensate_last(folded.state, folded.orders)
        return Folded(state, folded.status, orders)


class BarsPastPivot(Machine):
    """Bars every step whose outcome is not known, even one that must succeed."""

    def _due(self, state: State, orders: tuple[StepCommand, ...] = (), refusal: str = "") -> Folded:
        folded = super()._due(state, orders, refusal)
        if not self._is_compensating(folded.state):
            return folded
        last = len(self.saga.steps) - 1
        due = folded.state.done >> last - 1 & 1 and not folded.state.done >> last & 1
        bars = (BarStep(last),) if due else ()
        return Folded(folded.state, folded.status, (*folded.orders, *bars))


class TakesBackFirst(Machine):
    """Takes back in the order of doing, first step first."""

    def _compensate_last(self, state: State, orders: tuple[StepCommand, ...]) -> tuple[State, tuple[StepCommand, ...]]:
        left = self._left(state)
        first = (left & -left).bit_length() - 1
        asked = tuple(1 if i == first else each for i, each in enumerate(state.undo_asked))
        return state._replace(undo_asked=asked), (*orders, CompensateStep(first, state.undo_rounds[first]))


class IgnoresLateSuccess(Machine):
    """Takes a success that comes while it takes back for noise."""

    def fold(self, state: State, fact: Fact) -> Folded:
        """Fold a fact, a late success as if it were a bar's answer."""
        late = self.status(state) not in {Status.IDLE, Status.RUNNING}
        if late and fact.meaning is Meaning.DONE:
            barred = state._replace(barred=state.barred | 1 << fact.step)
            return super().fold(barred, Fact(Meaning.RECORDED))
        return super().fold(state, fact)


class CountsOldFailures(Machine):
    """Counts a failure of whatever round."""

    def _failed(self, state: State) -> int:
        return sum(1 << i for i, round_ in enumerate(state.failed) if round_) & ~state.done


class CountsOldUndoFailures(Machine):
    """Counts a compensation's failure of whatever round."""

    def _compensation_failed(self, state: State) -> int:
        failed = sum(1 << i for i, round_ in enumerate(state.undo_failed) if round_)
        return failed & state.done & ~state.compensated


class IgnoresContradictions(Machine):
    """Believes its own books against the venue's word."""

    def fold(self, state: State, fact: Fact) -> Folded:
        """Fold a fact, a contradiction as if it said nothing."""
        return super().fold(state, Fact(Meaning.RECORDED) if fact.meaning is Meaning.CONTRADICTED else fact)


class ForgetsBars(Machine):
    """Notes that a step was to be barred, and asks nobody."""

    def _due(self, state: State, orders: tuple[StepCommand, ...] = (), refusal: str = "") -> Folded:
        folded = super()._due(state, orders, refusal)
        return folded._replace(orders=tuple(each for each in folded.orders if not isinstance(each, BarStep)))


class TakesNobodyForNever(Machine):
    """Takes a step without an owner for one that has not happened and never will."""

    def fold(self, state: State, fact: Fact) -> Folded:
        """Fold a fact, an owner's absence as if the owner had barred the step."""
        meaning = Meaning.BARRED if fact.meaning is Meaning.UNOWNED else fact.meaning
        return super().fold(state, fact._replace(meaning=meaning))


class AsksOnlyByBars(Machine):
    """Forgets, at a recheck, to ask for what must succeed, whose answer has been given before."""

    def _recheck(self, state: State) -> Folded:
        folded = super()._recheck(state)
        return folded._replace(state=folded.state._replace(to_ask=0))


class ForgetsTheTurn(Machine):
    """Goes forward again after a recheck, where nobody says anything by himself."""

    def _recheck(self, state: State) -> Folded:
        folded = super()._recheck(state)
        return folded._replace(state=folded.state._replace(taking_back=False))


_FRESH: Final = Part()
_DROPPED: Final = decide(Part(status=RowStatus.RETRY), StepMessage.TRIGGER, small_trade.steps[0])


def bar_blindly(state: StepState, message: StepMessage, step: AnyStep, round_: int = 1) -> Transition:
    """Answer for a resting order without asking the venue when the step has no row yet."""
    blind = message is StepMessage.BAR and state.status is None
    return decide(state, message, replace(step, waits_for=None) if blind else step, round_)


def _bar_dropped(state: StepState, message: StepMessage, step: AnyStep, round_: int = 1) -> Transition:
    """Drop what comes for a step of which something has come before."""
    dropped = message is StepMessage.BAR and state.status is not None
    return _DROPPED if dropped else decide(state, message, step, round_)


def _bar_over_intent(state: StepState, message: StepMessage, step: AnyStep, round_: int = 1) -> Transition:
    """Answer barred while a call is under way."""
    if message is StepMessage.BAR and state.status is RowStatus.INTENT:
        return decide(state, message, step)._replace(action=Action.ANSWER, status=RowStatus.BARRED)
    return decide(state, message, step, round_)


def _always_run(state: StepState, message: StepMessage, step: AnyStep, round_: int = 1) -> Transition:
    """Run a trigger whenever it comes: no natural key."""
    again = message is StepMessage.TRIGGER and state.status is RowStatus.DONE
    return decide(_FRESH if again else state, message, step, round_)


def _past_tombstone(state: StepState, message: StepMessage, step: AnyStep, round_: int = 1) -> Transition:
    """Run a trigger that comes behind its bar."""
    again = message is StepMessage.TRIGGER and state.status is RowStatus.BARRED
    return decide(_FRESH if again else state, message, step, round_)


def _undo_again(state: StepState, message: StepMessage, step: AnyStep, round_: int = 1) -> Transition:
    """Take back once more what is taken back."""
    again = message is StepMessage.COMPENSATE and state.status is RowStatus.COMPENSATED
    return decide(Part(RowStatus.DONE) if again else state, message, step, round_)


def _retry_anything(state: StepState, message: StepMessage, step: AnyStep, round_: int = 1) -> Transition:
    """Run a retry without comparing its round with the row's."""
    if message is StepMessage.RETRY and state.status in {RowStatus.FAILED, RowStatus.DONE}:
        return decide(Part(RowStatus.FAILED, round=0), message, step, round_)
    return decide(state, message, step, round_)


def _machine(kind: type[Machine]) -> Make:
    return lambda definition: Protocol(kind(definition))


def _ruled(**liberties: Any) -> Make:
    return lambda definition: replace(shipped(definition), **liberties)


@dataclass(frozen=True, slots=True)
class Bug:
    """A planted bug, the play that shows it, and how the promise that breaks begins."""

    play: str
    broken: str
    make: Make


BUGS: Final[Mapping[str, Bug]] = {
    "no bar": Bug("trade", "not last first", _machine(NeverBars)),
    "compensation before every bar is answered": Bug("trade", "not last first", _machine(TakesBackEarly)),
    "bar past the pivot": Bug("trade", "failed for no reason", _machine(BarsPastPivot)),
    "bar forgotten": Bug("trade", "hangs", _machine(ForgetsBars)),
    "bar answered for an order that rests": Bug("trade", "not last first", _ruled(decide=bar_blindly)),
    "bar answered during a call": Bug("trade", "not last first", _ruled(decide=_bar_over_intent)),
    "not found accepted too early": Bug("trade", "done twice", _ruled(believes_not_found=True)),
    "first-in-first-out compensation": Bug("trade", "not last first", _machine(TakesBackFirst)),
    "late success ignored": Bug("trade", "aborted with something standing", _machine(IgnoresLateSuccess)),
    "failure of an old round counted": Bug("rounds", "FAILED for what is over", _machine(CountsOldFailures)),
    "old compensation's failure counted": Bug("rounds", "FAILED for what is over", _machine(CountsOldUndoFailures)),
    "retry not compared and set": Bug("rounds", "done twice", _ruled(decide=_retry_anything)),
    "duplicates dropped blindly": Bug("trade", "hangs", _ruled(decide=_bar_dropped)),
    "two rows for action and compensation": Bug("trade", "not last first", _ruled(two_rows=True)),
    "no natural key": Bug("trade", "done twice", _ruled(decide=_always_run)),
    "action after its bar": Bug("trade", "not last first", _ruled(decide=_past_tombstone)),
    "compensated twice": Bug("trade", "done twice", _ruled(decide=_undo_again)),
    "publish before commit": Bug("trade", "failed for no reason", _ruled(publishes_first=True)),
    "unowned step taken for barred": Bug("nobody places", "not last first", _machine(TakesNobodyForNever)),
    "recheck that only bars": Bug("recheck", "hangs", _machine(AsksOnlyByBars)),
    "recheck that goes forward": Bug("recheck", "hangs", _machine(ForgetsTheTurn)),
    "contradiction ignored": Bug("bust", "completed, though contradicted", _machine(IgnoresContradictions)),
    "join that does not wait": Bug("fork", "failed for no reason", _ruled(joins_early=True)),
    "account read without a lock": Bug("account", "the account does not add up", _ruled(overdraws=True)),
}
