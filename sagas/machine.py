"""The state machine of a saga: a pure function of its facts.

A state holds the facts so far, as sets of steps (bits) and rounds; the saga's status is derived from them. So step
facts may come in any order and repeatedly; only deadlines and operators' decisions depend on their position.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.facts import Fact, Meaning
from tradesaga.sagas.status import Status
from tradesaga.sagas.step import StepKind
from tradesaga.sagas.step_sets import bits, equal_rounds, with_round
from tradesaga.sagas.validation import predecessors

REMEMBERED: Final = 4096
"""Size of a machine's cache of step facts: pairs of a state and a fact."""
KNOWN_IDS: Final = 256
"""Ids of contradictions, and of decisions, that a state holds at most: anybody who may write to the topic adds some."""


class State(NamedTuple):
    """All facts of one saga so far.

    `done refused barred unknown compensated skipped bar_asked` are sets of steps, bit i for step i. `failed` and
    `undo_failed` have each step's latest failed round (0: none), `rounds` and `undo_rounds` the current ones,
    `undo_asked` the latest round in which the compensation was commanded. `unblocked`: the deadline has elapsed, and
    parked records no longer block later ones. Contradictions beyond the first `KNOWN_IDS` are only counted, in
    `more_contradictions`, and again when they are repeated. `unowned` are the steps reported without an owner past the
    deadline, `to_ask` those whose owners are asked for their answers again, past the pivot, after a recheck.
    `untried_from` is the first offset from which no deadline has tried to release parked records.
    """

    failed: tuple[int, ...]
    undo_failed: tuple[int, ...]
    rounds: tuple[int, ...]
    undo_rounds: tuple[int, ...]
    undo_asked: tuple[int, ...]
    started: bool = False
    reported: bool = False
    done: int = 0
    refused: int = 0
    barred: int = 0
    unknown: int = 0
    compensated: int = 0
    skipped: int = 0
    bar_asked: int = 0
    taking_back: bool = False
    overdue: bool = False
    contradictions: frozenset[str] = frozenset()
    decisions: frozenset[str] = frozenset()
    resolved: Status | None = None
    resolved_after: int = 0
    unblocked: bool = False
    more_contradictions: int = 0
    unowned: int = 0
    to_ask: int = 0
    untried_from: int = 0

    @property
    def contradicted(self) -> int:
        """Return the number of contradictions."""
        return len(self.contradictions) + self.more_contradictions


@dataclass(frozen=True, slots=True)
class BarStep:
    """Command the step's owner to settle it."""

    step: int


@dataclass(frozen=True, slots=True)
class CompensateStep:
    """Command the step's owner to compensate it."""

    step: int
    round: int


@dataclass(frozen=True, slots=True)
class RetryStep:
    """Command the step's owner to run it again from its stored input."""

    step: int
    round: int


StepCommand = BarStep | CompensateStep | RetryStep


class Folded(NamedTuple):
    """Result of folding a fact: the state, the commands that are now due, and why a decision was refused.

    Refusals are stored in the audit log, and a replay compares them: their texts must not change.
    """

    state: State
    status: Status
    orders: tuple[StepCommand, ...] = ()
    refusal: str = ""


class Machine:
    """The state machine of one definition; holds no state of any saga."""

    def __init__(self, saga: AnySaga) -> None:
        self.saga = saga
        self._before = predecessors(saga.steps)
        self._retriable = self._set(StepKind.RETRIABLE)
        self._pivot = self._set(StepKind.PIVOT)
        self._compensatable = self._set(StepKind.COMPENSATABLE)
        self._size = len(saga.steps)
        self._all = (1 << self._size) - 1
        zeros, ones = (0,) * self._size, (1,) * self._size
        self._begun = State(failed=zeros, undo_failed=zeros, rounds=ones, undo_rounds=ones, undo_asked=zeros)
        # Without a pivot, the point of no return is that all steps are done which retriable steps need. Without
        # retriable steps there is none: the saga can be compensated until it has ended.
        self._returns = not self._pivot and not self._retriable
        self._firm = self._pivot or self._compensatable
        self._fold_cached = lru_cache(REMEMBERED)(self._fold_step)

    def _set(self, kind: StepKind) -> int:
        return sum(1 << index for index, each in enumerate(self.saga.steps) if each.kind is kind)

    def begin(self) -> State:
        """Return the state of a saga without any fact."""
        return self._begun

    def passed(self, state: State) -> bool:
        """Return whether the saga is past its pivot or, without one, past all steps that retriable steps need."""
        return state.done & self._firm == self._firm and not self._returns

    def status(self, state: State) -> Status:
        """Derive the saga's status from its state."""
        if state.resolved is not None and state.contradicted <= state.resolved_after:
            return state.resolved
        if self.passed(state):
            if self._spoiled(state):
                return Status.FAILED
        elif self._is_compensating(state):
            return self._backward_status(state)
        if state.done != self._all:
            return Status.RUNNING if state.reported else Status.IDLE
        return Status.FAILED if state.contradictions else Status.COMPLETED

    def _spoiled(self, state: State) -> bool:
        """Return whether a saga past its pivot has a step that will not happen, or a compensated one."""
        missing = (state.refused | state.barred) & ~state.done | self._failed(state) | self._unanswered(state)
        return bool(missing or state.compensated or any(state.undo_failed))

    def _backward_status(self, state: State) -> Status:
        if self._outstanding(state) or self._left(state):
            return Status.FAILED if self._unanswered(state) else Status.COMPENSATING
        stands = state.done & ~state.compensated
        return Status.FAILED if stands or state.contradictions else Status.ABORTED

    def _is_compensating(self, state: State) -> bool:
        negative = state.refused | state.barred | state.unknown | self._failed(state)
        return state.taking_back or negative & ~self._retriable != 0

    def _failed(self, state: State) -> int:
        """Return the steps that failed in their current round and have not succeeded since."""
        return equal_rounds(state.failed, state.rounds) & ~state.done if any(state.failed) else 0

    def _compensation_failed(self, state: State) -> int:
        """Return the done steps whose compensation failed in its current round."""
        if not any(state.undo_failed):
            return 0
        return equal_rounds(state.undo_failed, state.undo_rounds) & state.done & ~state.compensated

    def _outstanding(self, state: State) -> int:
        """Return the triggered steps without an outcome; none after the pivot."""
        if not state.started:
            return 0
        return self._triggered(state, ~(state.refused | state.barred | self._failed(state) | self._retriable))

    def _triggered(self, state: State, chosen: int) -> int:
        """Return those of the chosen steps that are not done although all their triggers are there."""
        open_ = self._all & chosen & ~state.done
        return sum(1 << index for index in bits(open_) if self._before[index] & ~state.done == 0)

    def _left(self, state: State) -> int:
        """Return the done steps whose compensation has neither succeeded nor failed."""
        return state.done & self._compensatable & ~state.compensated & ~self._compensation_failed(state)

    def awaited(self, state: State) -> int:
        """Return the steps whose owners the saga is waiting for, as bits; 0 while it goes forward before its pivot.

        Past the pivot these are retriable steps; during compensation, steps that are to be settled. A step that is to
        be compensated is done, so it has an owner.
        """
        if self.passed(state):
            return self._triggered(state, self._retriable & ~(state.refused | state.barred | self._failed(state)))
        return self._outstanding(state) if self._is_compensating(state) else 0

    def _unanswered(self, state: State) -> int:
        """Return the unowned steps that block the saga; during compensation, only if it waits for no other step."""
        if not state.unowned:
            return 0
        waited = self.awaited(state)
        if self.passed(state):
            return waited & state.unowned
        return 0 if waited & ~state.unowned else waited

    def _waits_for_unowned(self, state: State, status: Status) -> bool:
        """Return whether the saga is FAILED before its pivot because nobody owns a step that it waits for."""
        return status is Status.FAILED and not self.passed(state) and self._unanswered(state) != 0

    def fold(self, state: State, fact: Fact) -> Folded:
        """Fold one fact, and return the commands that are due. Never raises: an impossible decision is refused."""
        if fact.meaning is Meaning.UNOWNED and (not state.overdue or state.resolved is not None):
            return self._due(state, refusal="the deadline has not elapsed, or the saga is resolved")
        if fact.meaning is Meaning.DEADLINE:
            return self._due(self._start_compensating(state._replace(overdue=True)))
        if fact.meaning in _DECISIONS:
            return self._decide(state, fact)
        if fact.meaning is Meaning.CONTRADICTED:
            return self._due(_add_fact(state, fact))
        return self._fold_cached(state, fact.meaning, fact.step, fact.round)

    def _fold_step(self, state: State, meaning: Meaning, step: int, round_: int) -> Folded:
        """Fold a step fact. Cached, since most sagas go through the same few states."""
        return self._due(_add_fact(state, Fact(meaning, step, round_)))

    def _due(self, state: State, orders: tuple[StepCommand, ...] = (), refusal: str = "") -> Folded:
        status = self.status(state)
        if state.to_ask and self.passed(state):
            state, orders = self._ask_again(state, orders)
        if status is not Status.COMPENSATING and not self._waits_for_unowned(state, status):
            return Folded(state, status, orders, refusal)
        outstanding = self._outstanding(state)
        if bars := outstanding & ~state.bar_asked:
            orders = (*orders, *(BarStep(index) for index in bits(bars)))
            state = state._replace(bar_asked=state.bar_asked | bars)
        if not outstanding:
            state, orders = self._compensate_last(state, orders)
        return Folded(state, status, orders, refusal)

    def _ask_again(self, state: State, orders: tuple[StepCommand, ...]) -> tuple[State, tuple[StepCommand, ...]]:
        """Ask owners for their answers again, after a recheck: of steps before the pivot, and of retriable ones."""
        settled = state.refused | state.barred | self._failed(state)
        asked = self._triggered(state, state.to_ask & ~settled & ~state.bar_asked)
        again: list[StepCommand] = [
            RetryStep(index, state.rounds[index]) if self._retriable >> index & 1 else BarStep(index)
            for index in bits(asked)
        ]
        noted = state._replace(to_ask=state.to_ask & ~asked, bar_asked=state.bar_asked | asked & ~self._retriable)
        return noted, (*orders, *again)

    def _compensate_last(self, state: State, orders: tuple[StepCommand, ...]) -> tuple[State, tuple[StepCommand, ...]]:
        """Command the compensation of the last done step, unless an earlier command is not answered yet."""
        left = self._left(state)
        if equal_rounds(state.undo_asked, state.undo_rounds) & left:
            return state, orders
        index = left.bit_length() - 1
        current = state.undo_rounds[index]
        asked = state._replace(undo_asked=with_round(state.undo_asked, index, current))
        return asked, (*orders, CompensateStep(index, current))

    def _start_compensating(self, state: State) -> State:
        """Start compensation, unless the saga is past its pivot, is being compensated already, or has ended."""
        if self.status(state) in _FORWARD and not self.passed(state):
            return state._replace(taking_back=True)
        return state

    def _decide(self, state: State, fact: Fact) -> Folded:
        """Apply an operator's decision, once; one that is impossible is refused and changes nothing."""
        if fact.id in state.decisions:
            return self._due(state)
        # All ids are dropped at once, for constant cost on average; repeats of a decision come soon after it.
        known = state.decisions if len(state.decisions) < KNOWN_IDS else frozenset[str]()
        state = state._replace(decisions=known | {fact.id})
        status = self.status(state)
        if fact.meaning is Meaning.ABORT:
            if status is not Status.COMPENSATING and (status not in _FORWARD or self.passed(state)):
                where = "past its pivot" if self.passed(state) else str(status)
                return self._due(state, refusal=f"the saga is {where}; nothing is taken back")
            return self._due(self._start_compensating(state))
        if fact.meaning is Meaning.RECHECK:
            return self._recheck(state)
        if status is not Status.FAILED:
            return self._due(state, refusal=f"the saga is {status}, not FAILED")
        if fact.meaning is Meaning.RESOLVE:
            return self._resolve(state, fact)
        return self._again(state, fact)

    def _resolve(self, state: State, fact: Fact) -> Folded:
        """Close a saga by hand; unowned steps that it waits for must be skipped first."""
        if self._waits_for_unowned(state, Status.FAILED):
            names = ", ".join(self.names(self._unanswered(state)))
            return self._due(state, refusal=f"what came of {names} is not known; skip it first")
        return self._due(state._replace(resolved=fact.outcome, resolved_after=state.contradicted))

    def _recheck(self, state: State) -> Folded:
        """Forget all step facts and have the owners publish their answers again, each from its own row.

        The saga is compensated, unless the answers show that it is past its pivot. Steps are asked in order, by bars,
        so that nothing is compensated before all outstanding steps are settled.
        """
        if self._returns and self.status(state) is Status.COMPLETED:
            return self._due(state, refusal="the saga is COMPLETED; it has no pivot that would prove it")
        forgotten = self._begun._replace(
            started=state.started,
            reported=state.reported,
            rounds=state.rounds,
            undo_rounds=state.undo_rounds,
            taking_back=True,
            overdue=state.overdue,
            contradictions=state.contradictions,
            more_contradictions=state.more_contradictions,
            decisions=state.decisions,
            unblocked=state.unblocked,
            unowned=state.unowned,
            to_ask=self._all,
            untried_from=state.untried_from,
        )
        return self._due(forgotten)

    def _again(self, state: State, fact: Fact) -> Folded:
        """Retry or skip a failed step or compensation, or skip an unowned step."""
        index, passed = fact.step, self.passed(state)
        chosen = 1 << index
        if fact.meaning is Meaning.SKIP and not passed and chosen & self._unanswered(state):
            # The operator answers for the step's owner: it has not happened and never will.
            return self._due(state._replace(barred=state.barred | chosen))
        if fact.meaning is Meaning.RETRY and passed and self._failed(state) & self._retriable & chosen:
            current = state.rounds[index] + 1
            retried = state._replace(rounds=with_round(state.rounds, index, current))
            return self._due(retried, (RetryStep(index, current),))
        if not passed and self._compensation_failed(state) & chosen:
            if fact.meaning is Meaning.SKIP:
                return self._due(state._replace(skipped=state.skipped | chosen))
            rounds = with_round(state.undo_rounds, index, state.undo_rounds[index] + 1)
            return self._due(state._replace(undo_rounds=rounds, skipped=state.skipped & ~chosen))
        name = self.saga.steps[index].name
        return self._due(state, refusal=f"{name!r} has not failed in a way that this could mend")

    def names(self, steps: int) -> list[str]:
        """Return the names of a set of steps, in the order of the definition."""
        return [self.saga.steps[index].name for index in bits(steps)]

    def missing(self, state: State) -> list[str]:
        """Return the names of the steps that the saga is waiting for: to answer, to settle, or to be compensated."""
        status = self.status(state)
        if status is Status.COMPENSATING:
            return self.names(self._outstanding(state) or self._left(state))
        if status in {Status.IDLE, Status.RUNNING}:
            return self.names(self._triggered(state, self._all))
        if status is Status.FAILED:
            return self.names(self._failed(state) | self._compensation_failed(state) | self._unanswered(state))
        return []

    def unanswered(self, state: State) -> int:
        """Return the unowned steps that a FAILED saga waits for, as bits."""
        return self._unanswered(state) if self.status(state) is Status.FAILED else 0


_DECISIONS: Final = frozenset(meaning for meaning in Meaning if meaning.by_operator)
_FORWARD: Final = frozenset({Status.IDLE, Status.RUNNING})
_GROWING: Final = {
    Meaning.DONE: "done",
    Meaning.REFUSED: "refused",
    Meaning.BARRED: "barred",
    Meaning.UNKNOWN: "unknown",
    Meaning.COMPENSATED: "compensated",
}
_LATE: Final = "done after the saga was resolved"
_ROUNDED: Final = {Meaning.FAILED: "failed", Meaning.COMPENSATION_FAILED: "undo_failed"}


def _add_fact(state: State, fact: Fact) -> State:
    """Add a step fact: sets grow and rounds keep their maximum, so order and repeats make no difference."""
    if fact.meaning is Meaning.STARTED:
        return state._replace(started=True)
    if fact.meaning is Meaning.RECORDED:
        return state
    if fact.meaning is Meaning.UNOWNED:
        return state._replace(unowned=state.unowned | 1 << fact.step)
    if fact.meaning is Meaning.DONE and state.resolved is not None and state.unowned & ~state.done & 1 << fact.step:
        # An operator closed the saga without this step's owner, which has acted after all: it needs one again.
        state = _contradict(state, f"{fact.step}:{_LATE}")
    if (members := _GROWING.get(fact.meaning)) is not None:
        return state._replace(reported=True, **{members: getattr(state, members) | 1 << fact.step})
    if (rounds := _ROUNDED.get(fact.meaning)) is not None:
        latest = max(getattr(state, rounds)[fact.step], fact.round)
        return state._replace(reported=True, **{rounds: with_round(getattr(state, rounds), fact.step, latest)})
    if fact.meaning is Meaning.CONTRADICTED:
        return _contradict(state._replace(reported=True), f"{fact.step}:{fact.id}")
    return state._replace(reported=True)


def _contradict(state: State, contradiction: str) -> State:
    if contradiction in state.contradictions:
        return state
    if len(state.contradictions) < KNOWN_IDS:
        return state._replace(contradictions=state.contradictions | {contradiction})
    return state._replace(more_contradictions=state.more_contradictions + 1)
