"""Test that a saga ends the same whenever its processes crash."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.facts import Meaning
from tradesaga.sagas.status import Status
from tradesaga.sagas.step_state import RowStatus
from tradesaga.sagas.testing.in_memory_run import Answer, InMemoryRun

ENOUGH = 10_000
"""Commits after which a run is considered to loop."""


class Outcome(Enum):
    """Outcome of a step in a simulated run."""

    SUCCEEDS = "succeeds"
    REFUSES = "refuses"
    FAILS = "fails in every attempt"
    ANSWER_LOST = "happens, unheard"
    CALL_LOST = "never arrives, and stays so"
    STANDS = "succeeds, and cannot be compensated"


def survives_crashes(
    saga: AnySaga,
    *,
    ends: Status | frozenset[Status],
    outcomes: Mapping[str, Outcome] | None = None,
    remote: Collection[str] = (),
    deadline_after: int | None = None,
) -> int:
    """Run the saga once without a crash, then once for each commit with all processes crashing right after it.

    `outcomes` are those of steps by name, `remote` the steps that are calls, `deadline_after` the number of commits
    after which the deadline elapses (if a crash can move it past the pivot, pass both ends). Returns the number of
    crashes; raises `AssertionError` for the first that ends otherwise, leaves effects behind, or makes the log's state
    differ from its facts.
    """
    wanted = frozenset({ends}) if isinstance(ends, Status) else ends
    script = _Script(saga, outcomes or {}, frozenset(remote), deadline_after)
    whole = script.play(crash_after=None)
    _hold(saga, whole, wanted, "without a crash")
    for point in range(whole.commits):
        _hold(saga, script.play(crash_after=point), wanted, f"after a crash behind commit {point} of {whole.commits}")
    return whole.commits


@dataclass(frozen=True, slots=True)
class _Played:
    run: InMemoryRun
    commits: int


@dataclass(slots=True)
class _Memory:
    """What the processes hold in memory, and lose in a crash."""

    triggered: set[int] = field(default_factory=set[int])
    timed_out: set[int] = field(default_factory=set[int])
    delivered: int = 0


@dataclass(frozen=True, slots=True)
class _Script:
    saga: AnySaga
    outcomes: Mapping[str, Outcome]
    remote: frozenset[str]
    deadline_after: int | None

    def play(self, crash_after: int | None) -> _Played:
        run, memory, commits = InMemoryRun(self.saga, remote=self.remote), _Memory(), 0
        while (action := self._next(run, memory)) is not None:
            action()
            if commits == crash_after:
                memory = _Memory()
                _rebuild(run)
            if commits == self.deadline_after:
                run.publish(Meaning.DEADLINE)
            commits += 1
            if commits > ENOUGH:
                raise AssertionError(f"{self.saga.name}: no end after {ENOUGH} commits; it is {run.status}")
        return _Played(run, commits)

    def _next(self, run: InMemoryRun, memory: _Memory) -> Callable[[], None] | None:
        """Choose the next action: fold, then commands, then triggers, then steps in progress."""
        if run.folded < len(run.facts):
            return lambda: _ignore(run.fold())
        if memory.delivered < len(run.orders):
            order = run.orders[memory.delivered]
            memory.delivered += 1
            return partial(run.deliver, order, fail=self._becomes(order.step) is Outcome.STANDS)
        for step in range(len(self.saga.steps)):
            if step not in memory.triggered and run.triggered(step):
                memory.triggered.add(step)
                return partial(run.trigger, step, self._answer(step))
        driven = (self._drive(run, memory, step) for step in range(len(self.saga.steps)))
        return next((action for action in driven if action is not None), None)

    def _drive(self, run: InMemoryRun, memory: _Memory, step: int) -> Callable[[], None] | None:
        """Choose the next action of the owner, or the remote system, of a step in progress."""
        part, outcome = run.parts[step], self._becomes(step)
        lost = outcome in {Outcome.ANSWER_LOST, Outcome.CALL_LOST}
        if part.status is RowStatus.WAITING:
            happened = outcome is not Outcome.REFUSES
            return partial(run.conclude, step) if part.closed else partial(run.report, step, happened=happened)
        if part.status is RowStatus.INTENT:
            if part.calling:
                return partial(run.lose if outcome is Outcome.CALL_LOST else run.land, step)
            if lost and step not in memory.timed_out:
                memory.timed_out.add(step)
                return partial(run.time_out, step)
        if part.status in {RowStatus.INTENT, RowStatus.RETRY}:
            last = outcome in {Outcome.FAILS, Outcome.CALL_LOST}
            return partial(run.settle, step, self._answer(step), last=last)
        return None

    def _becomes(self, step: int) -> Outcome:
        return self.outcomes.get(self.saga.steps[step].name, Outcome.SUCCEEDS)

    def _answer(self, step: int) -> Answer:
        answers = {Outcome.REFUSES: Answer.REFUSED, Outcome.FAILS: Answer.RAISED}
        return answers.get(self._becomes(step), Answer.DONE)


def _ignore(_: object) -> None:
    """Discard a result."""


def _rebuild(run: InMemoryRun) -> None:
    """Fold all facts again, as a recovery does, and compare the result with the state."""
    state = run.machine.begin()
    for fact in run.facts[: run.folded]:
        state = run.machine.fold(state, fact).state
    if state != run.state:
        raise AssertionError(f"{run.saga.name}: the checkpoint {run.state} is not its facts' {state}")


def _hold(saga: AnySaga, played: _Played, ends: frozenset[Status], when: str) -> None:
    if broken := played.run.find_broken():
        raise AssertionError(f"{saga.name}: {broken}, {when}")
    if played.run.status not in ends:
        raise AssertionError(f"{saga.name}: ends {played.run.status}, not {' or '.join(sorted(ends))}, {when}")
