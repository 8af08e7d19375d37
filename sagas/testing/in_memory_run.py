"""Run a saga in memory: the saga log with `Machine`, the owners of steps with `tradesaga.sagas.decide`.

Each method is one atomic commit of one process. Nothing is lost between them, and everything may be repeated, in any
causal order; so a crash is a method that is not called, and a recovery is the same methods called again.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from tradesaga.sagas.decide import Action, StepMessage, Transition, decide
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.facts import Fact, Meaning
from tradesaga.sagas.machine import BarStep, CompensateStep, Machine, StepCommand
from tradesaga.sagas.status import Status
from tradesaga.sagas.step import AnyStep, Retry, StepKind
from tradesaga.sagas.step_state import RowStatus
from tradesaga.sagas.validation import predecessors

_ENDLESS = Retry(attempts=2**31)
"""The caller decides which attempt is the last."""
_MEANINGS = {
    RowStatus.DONE: Meaning.DONE,
    RowStatus.REFUSED: Meaning.REFUSED,
    RowStatus.FAILED: Meaning.FAILED,
    RowStatus.BARRED: Meaning.BARRED,
    RowStatus.COMPENSATED: Meaning.COMPENSATED,
    RowStatus.COMPENSATION_FAILED: Meaning.COMPENSATION_FAILED,
}


class Answer(Enum):
    """Result of a handler: its event, its rejection, or an exception, which means a retry."""

    DONE = "done"
    REFUSED = "refused"
    RAISED = "raised"


@dataclass(slots=True)
class InMemoryStep:
    """A step's row at its owner, and the state of the system where it takes effect.

    `stands`: the effect is there; `closed`: the remote system can no longer produce it; `calling`: a call is in flight.
    """

    status: RowStatus | None = None
    calling: bool = False
    stands: bool = False
    closed: bool = False
    bar_seen: bool = False
    attempt: int = 1
    back_attempt: int = 0
    round: int = 1
    back_round: int = 0
    times_done: int = 0
    times_compensated: int = 0
    answer: Fact | None = None
    back_answer: Fact | None = None

    def apply(self, decided: Transition) -> None:
        """Set status, attempts and rounds."""
        self.status, self.bar_seen = decided.status, decided.bar_seen
        self.attempt, self.back_attempt = decided.attempt, decided.back_attempt
        self.round, self.back_round = decided.round, decided.back_round

    def take_effect(self) -> None:
        """Make the step's effect."""
        self.stands, self.calling = True, False
        self.times_done += 1


class Decided(NamedTuple):
    """An accepted decision of an operator, with the numbers of facts and commands before it."""

    fact: Fact
    folded: int
    orders: int


class InMemoryRun:
    """A run of a saga. `remote` names the steps whose effect is a call that may be lost or not answered."""

    def __init__(self, saga: AnySaga, *, remote: Collection[str] = ()) -> None:
        self.saga = saga
        self.machine = Machine(saga)
        self.state = self.machine.begin()
        self.facts: list[Fact] = [Fact(Meaning.STARTED)]
        self.folded = 0
        self.orders: list[StepCommand] = []
        self.refusals = 0
        self.decided: list[Decided] = []
        self.parts = [InMemoryStep() for _ in saga.steps]
        self._remote = frozenset(remote)
        self._endless: list[AnyStep] = [replace(each, retry=_ENDLESS) for each in saga.steps]
        before = predecessors(saga.steps)
        self._before = [[i for i in range(len(before)) if own >> i & 1] for own in before]

    @property
    def status(self) -> Status:
        """Return the saga's status after the facts folded so far."""
        return self.machine.status(self.state)

    def is_remote(self, step: int) -> bool:
        """Return whether the step is a remote call."""
        return self.saga.steps[step].name in self._remote and not self.is_waiting(step)

    def is_waiting(self, step: int) -> bool:
        """Return whether the step is a waiting step."""
        return self._step(step).waits_for is not None

    def triggered(self, step: int) -> bool:
        """Return whether all triggers of the step are on the topic."""
        return all(self._has_fact(Meaning.DONE, index) for index in self._before[step])

    def fold(self) -> tuple[StepCommand, ...]:
        """Fold the next fact; returns the commands that the saga log publishes for it."""
        fact = self.facts[self.folded]
        folded = self.machine.fold(self.state, fact)
        if fact.meaning.by_operator and not folded.refusal and fact.id not in self.state.decisions:
            self.decided.append(Decided(fact, self.folded, len(self.orders)))
        self.state, self.folded = folded.state, self.folded + 1
        self.orders += folded.orders
        self.refusals += bool(folded.refusal)
        return folded.orders

    def publish(self, meaning: Meaning, step: int = -1, *, outcome: Status | None = None) -> None:
        """Publish a deadline, an operator's decision or a contradiction."""
        self.facts.append(Fact(meaning, step, id=f"said-{len(self.facts)}", outcome=outcome))

    def trigger(self, step: int, answer: Answer = Answer.DONE) -> None:
        """Deliver the step's trigger to its owner; `answer` is its handler's result."""
        decided = self._decide(step, StepMessage.TRIGGER)
        match decided.action:
            case Action.STORE_INPUT if self.is_waiting(step):
                self.parts[step].apply(decided)
            case Action.STORE_INPUT:  # a join: all of its triggers are on the topic
                self.parts[step].apply(decided)
                self._run(step, self._decide(step, StepMessage.INPUTS_COMPLETE), answer)
            case Action.RUN:
                self._run(step, decided, answer)
            case Action.REPEAT_ANSWER:
                self._emit(self.parts[step].answer)
            case _:
                pass

    def land(self, step: int) -> None:
        """Let the call in flight reach the remote system."""
        part = self.parts[step]
        if part.calling and not part.closed:
            part.take_effect()

    def lose(self, step: int) -> None:
        """Let the call in flight expire."""
        self.parts[step].calling = False

    def time_out(self, step: int) -> None:
        """Let an unanswered call time out: its owner publishes that the outcome is unknown."""
        if self.parts[step].status is RowStatus.INTENT:
            self._emit(Fact(Meaning.UNKNOWN, step, id=f"unknown-{step}"))

    def settle(self, step: int, answer: Answer = Answer.DONE, *, last: bool = False) -> None:
        """Let the owner query the outcome of a call, or retry an attempt that has not happened.

        `last`: no attempt is left, so an attempt that has not happened fails the step.
        """
        part = self.parts[step]
        if part.status is RowStatus.RETRY and not last:
            self._run(step, self._decide(step, StepMessage.DUE), answer)
        elif part.status is RowStatus.INTENT and part.stands:
            self._answer(step, StepMessage.SUCCEEDED)
        elif part.status is RowStatus.RETRY or (part.status is RowStatus.INTENT and not part.calling):
            self._fail(step, last=last)

    def report(self, step: int, *, happened: bool) -> None:
        """Let the outside decide a waiting step, once the steps before it are done and nothing has closed it."""
        part = self.parts[step]
        if not part.stands and not part.closed and all(self.parts[index].stands for index in self._before[step]):
            part.closed = True
            if happened:
                part.take_effect()

    def conclude(self, step: int) -> None:
        """Let the owner of a waiting step answer, if trigger and report are both there."""
        part = self.parts[step]
        if part.status is RowStatus.WAITING and part.closed:
            self._conclude(step)

    def deliver(self, order: StepCommand, *, fail: bool = False) -> None:
        """Deliver a command, perhaps again; `fail` makes a compensation fail."""
        if isinstance(order, BarStep):
            self._bar(order.step)
        elif isinstance(order, CompensateStep):
            self._compensate(order, fail=fail)
        else:
            self._retry(order.step, order.round)

    def _retry(self, step: int, round_: int) -> None:
        decided = self._decide(step, StepMessage.RETRY, round_)
        match decided.action:
            case Action.RUN:
                self._run(step, decided, Answer.DONE)
            case Action.CONCLUDE:
                self.parts[step].apply(decided)
                self.parts[step].closed = False
            case Action.REPEAT_ANSWER:
                self._emit(self.parts[step].answer)
            case _:
                pass

    def _bar(self, step: int) -> None:
        part, decided = self.parts[step], self._decide(step, StepMessage.BAR)
        match decided.action:
            case Action.ANSWER:
                part.closed = True
                self._apply_answer(step, decided)
            case Action.SETTLE:
                part.apply(decided)
            case Action.BAR_FAR_SIDE:
                part.apply(decided)
                part.closed = True
                self._conclude(step)
            case _:
                self._emit(part.answer)

    def _compensate(self, order: CompensateStep, *, fail: bool) -> None:
        part, decided = self.parts[order.step], self._decide(order.step, StepMessage.COMPENSATE, order.round)
        match decided.action:
            case Action.COMPENSATE:
                part.apply(decided)
                stays = fail or self._is_used(order.step)
                if not stays:
                    self._revert(order.step)
                self._answer(order.step, StepMessage.COMPENSATION_FAILED_FOR_GOOD if stays else StepMessage.COMPENSATED)
            case Action.REPEAT_COMPENSATION_ANSWER:
                self._emit(part.back_answer)
            case action:
                raise AssertionError(f"{self._step(order.step).name}: {action.value} ({part.status})")

    def _revert(self, step: int) -> None:
        part = self.parts[step]
        part.stands, part.times_compensated = False, part.times_compensated + 1
        for index, needed in enumerate(self._before):
            if step in needed and self.is_waiting(index):
                self.parts[index].closed = True

    def _is_used(self, step: int) -> bool:
        """Return whether the outside has already used the step's effect, so that it cannot be compensated."""
        needing = (index for index, needed in enumerate(self._before) if step in needed)
        return any(self.is_waiting(index) and self.parts[index].stands for index in needing)

    def _run(self, step: int, decided: Transition, answer: Answer) -> None:
        part = self.parts[step]
        part.apply(decided)
        if answer is Answer.REFUSED:
            self._answer(step, StepMessage.REFUSED)
        elif answer is Answer.RAISED:
            self._fail(step, last=False)
        elif self.is_remote(step):
            part.calling = True
        else:
            part.take_effect()
            self._answer(step, StepMessage.SUCCEEDED)

    def _fail(self, step: int, *, last: bool) -> None:
        """Fail an attempt; only an operator starts another round, and only of a retriable step."""
        part, message = self.parts[step], StepMessage.FAILED_FOR_GOOD if last else StepMessage.FAILED
        part.closed = part.closed or part.bar_seen
        self._answer(step, message)

    def _conclude(self, step: int) -> None:
        if self.parts[step].stands:
            self._answer(step, StepMessage.SUCCEEDED)
        elif self._step(step).rejects is not None:
            self._answer(step, StepMessage.REFUSED)
        else:
            self._answer(step, StepMessage.FAILED_FOR_GOOD)

    def _decide(self, step: int, message: StepMessage, round_: int = 1) -> Transition:
        return decide(self.parts[step], message, self._endless[step], round_)

    def _answer(self, step: int, message: StepMessage) -> None:
        self._apply_answer(step, self._decide(step, message))

    def _apply_answer(self, step: int, decided: Transition) -> None:
        """Apply a transition, and publish its answer."""
        part = self.parts[step]
        part.apply(decided)
        if decided.action is Action.ANSWER and part.status is not None:
            part.answer = Fact(_MEANINGS[part.status], step, part.round, f"answer-{step}-{part.round}")
            self._emit(part.answer)
        elif decided.action is Action.ANSWER_COMPENSATION and part.status is not None:
            part.back_answer = Fact(_MEANINGS[part.status], step, part.back_round, f"back-{step}-{part.back_round}")
            self._emit(part.back_answer)

    def _emit(self, fact: Fact | None) -> None:
        if fact is not None:
            self.facts.append(fact)

    def _has_fact(self, meaning: Meaning, step: int) -> bool:
        return any(fact.meaning is meaning and fact.step == step for fact in self.facts)

    def _step(self, index: int) -> AnyStep:
        return self.saga.steps[index]

    def find_broken(self) -> str:
        """Return the invariant that the final state breaks, if any; to be called once nothing more can happen."""
        if self.state.resolved is not None:
            return ""
        stands = self._names(part.stands for part in self.parts)
        if twice := self._names(part.times_done > 1 or part.times_compensated > 1 for part in self.parts):
            return f"{twice} happened, or were compensated, more than once"
        if self.status is Status.ABORTED and stands:
            return f"ABORTED, yet {stands} stand"
        if self.status is Status.COMPLETED and len(stands) != len(self.parts):
            return f"COMPLETED, yet only {stands} stand"
        if self.status is Status.FAILED and not self._excused():
            return "FAILED without a cause"
        if self.status is Status.FAILED and not self.machine.passed(self.state):
            left = self._names(part.stands and part.status is RowStatus.DONE for part in self.parts)
            return f"FAILED, yet nothing tried to compensate {left}" if left else ""
        return (
            "" if self.status not in {Status.IDLE, Status.RUNNING, Status.COMPENSATING} else f"hangs in {self.status}"
        )

    def _names(self, chosen: Iterable[bool]) -> list[str]:
        return [each.name for each, take in zip(self.saga.steps, chosen, strict=True) if take]

    def _excused(self) -> bool:
        causes = {Meaning.COMPENSATION_FAILED, Meaning.CONTRADICTED}
        stuck = (fact for fact in self.facts if fact.meaning is Meaning.FAILED)
        if any(each.fact.meaning is Meaning.SKIP for each in self.decided):
            return True
        return any(fact.meaning in causes for fact in self.facts) or any(
            self._step(fact.step).kind is StepKind.RETRIABLE for fact in stuck
        )
