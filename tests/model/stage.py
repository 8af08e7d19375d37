"""Any saga, the owners of its steps, the far side and the saga log, as a state from which every next one can be listed.

Each move is one atomic commit of one party: what a message does to a row is `tradesaga.sagas.decide`, what
the log makes of a fact is the `Machine`. Messages, once emitted, may be handled at any time and any number of times; a
crash is a move that is not made. How often the optional things happen (repeats, decisions of people, compensations that
fail, busts) is bounded by what is left of each in the state, so that the number of states is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tests.model.protocol import Known, Protocol
from tests.model.scene import Budget, Move, Part, World
from tradesaga.sagas.decide import Action, StepMessage, Transition
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.facts import Fact, Meaning
from tradesaga.sagas.machine import BarStep, CompensateStep, StepCommand
from tradesaga.sagas.status import Status
from tradesaga.sagas.step import Retry, StepKind
from tradesaga.sagas.step_state import RowStatus
from tradesaga.sagas.validation import ancestors, predecessors

UNDER_WAY = frozenset({Status.IDLE, Status.RUNNING, Status.COMPENSATING})
_ANSWERS = {
    RowStatus.DONE: Meaning.DONE, RowStatus.REFUSED: Meaning.REFUSED, RowStatus.FAILED: Meaning.FAILED,
    RowStatus.BARRED: Meaning.BARRED, RowStatus.COMPENSATED: Meaning.COMPENSATED,
    RowStatus.COMPENSATION_FAILED: Meaning.COMPENSATION_FAILED,
}  # fmt: skip
_NAMES = {
    RowStatus.DONE: "done", RowStatus.REFUSED: "refused", RowStatus.FAILED: "failed", RowStatus.BARRED: "barred",
    RowStatus.RETRY: "retry",
}  # fmt: skip
_MENDABLE = frozenset({RowStatus.FAILED, RowStatus.COMPENSATION_FAILED})


@dataclass
class Stage:
    """A saga's rules and surroundings; it holds no state of a run."""

    protocol: Protocol
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        # The budget says how often each step is tried.
        retry = Retry(attempts=self.budget.attempts)
        self.steps = [replace(each, retry=retry) for each in self.saga.steps]
        self.before = predecessors(self.steps)
        self.above = ancestors(self.before)
        self.waits = [each.waits_for is not None for each in self.steps]
        self.retriable = [each.kind is StepKind.RETRIABLE for each in self.steps]

    @property
    def saga(self) -> AnySaga:
        """Give the definition."""
        return self.protocol.machine.saga

    def begin(self) -> World:
        """Give the moment after the start was published."""
        given, log = self.budget, bytes([self.protocol.number(Fact(Meaning.STARTED))])
        parts = (Part(),) * len(self.steps)
        absent = given.unowned >= 0
        troubles = given.repeats, given.decisions, given.undo_failures, given.busts
        return World(parts, log, 0, *troubles, given.free, absent)

    def moves(self, world: World) -> Iterator[Move]:
        """List all that may happen next."""
        known = self.protocol.fold(world.log[: world.read])
        if world.read < len(world.log):
            yield Move("fold", -1, world._replace(read=world.read + 1))
        if known.status in UNDER_WAY and not self.said(world, Fact(Meaning.DEADLINE)):
            yield Move("deadline", -1, self.say(world, Fact(Meaning.DEADLINE)))
        yield from self._disturbances(world, known.status)
        if world.absent:
            yield from self._absence(world, known)
        away = self.budget.unowned if world.absent else -1
        for step, part in enumerate(world.parts):
            if step != away:
                yield from self._owner(world, step, part)
            yield from self._far_side(world, step, part)
        for order in known.orders:
            if order.step != away:
                yield from self._order(world, order, world.parts[order.step])

    def say(self, world: World, *facts: Fact) -> World:
        """Publish facts; what is on the topic since a recheck adds nothing here, repeats being moves of their own."""
        since = world.log[max((world.log.rfind(number) for number in self._rechecks()), default=-1) + 1 :]
        new = bytes(number for number in map(self.protocol.number, facts) if number not in since)
        return world._replace(log=world.log + new)

    def _rechecks(self) -> Iterator[int]:
        """List the numbers of the rechecks that may be decided."""
        if Meaning.RECHECK in self.budget.decides:
            for left in range(1, self.budget.decisions + 1):
                yield self.protocol.number(Fact(Meaning.RECHECK, id=f"decision-{left}"))

    def _absence(self, world: World, known: Known) -> Iterator[Move]:
        """Say that a step has no owner once the deadline has elapsed; let its owner come, unless it was given up."""
        step = self.budget.unowned
        if known.state.overdue:
            yield Move("unowned", step, self.say(world, Fact(Meaning.UNOWNED, step)))
        names = (f"decision-{left}" for left in range(1, self.budget.decisions + 1))
        if not any(self.said(world, Fact(Meaning.SKIP, step, id=name)) for name in names):
            yield Move("owner comes", step, world._replace(absent=False), optional=True)

    def said(self, world: World, fact: Fact) -> bool:
        """Say whether this fact is on the topic."""
        return self.protocol.number(fact) in world.log

    def put(self, world: World, step: int, part: Part, *facts: Fact) -> World:
        """Commit a step's row, and publish what it says."""
        parts = (*world.parts[:step], part, *world.parts[step + 1 :])
        return self.say(world._replace(parts=parts), *facts)

    def _disturbances(self, world: World, status: Status) -> Iterator[Move]:
        if world.repeats:
            for number in sorted(set(world.log)):
                again = world._replace(log=world.log + bytes([number]), repeats=world.repeats - 1)
                yield Move("again", number, again, optional=True)
        if world.decisions:
            for fact in self._decisions(world, status):
                yield Move(fact.meaning.value, fact.step, self.say(self._decided(world), fact), optional=True)
        if world.busts:
            for step, part in enumerate(world.parts):
                if self.waits[step] and part.status is RowStatus.DONE:
                    bust = self.say(world._replace(busts=world.busts - 1), Fact(Meaning.CONTRADICTED, step, id="bust"))
                    yield Move("bust", step, bust, optional=True)

    def _decided(self, world: World) -> World:
        return world._replace(decisions=world.decisions - 1)

    def _decisions(self, world: World, status: Status) -> Iterator[Fact]:
        allowed, name = self.budget.decides, f"decision-{world.decisions}"
        if Meaning.ABORT in allowed and status in UNDER_WAY:
            yield Fact(Meaning.ABORT, id=name)
        if Meaning.RECHECK in allowed:
            yield Fact(Meaning.RECHECK, id=name)
        if Meaning.RESOLVE in allowed and status is Status.FAILED:
            yield Fact(Meaning.RESOLVE, id=name, outcome=Status.ABORTED)
        for step, part in enumerate(world.parts):
            if part.status in _MENDABLE or (world.absent and step == self.budget.unowned):
                yield from (Fact(each, step, id=name) for each in (Meaning.RETRY, Meaning.SKIP) if each in allowed)

    def triggered(self, world: World, step: int) -> bool:
        """Say whether all that the step reacts to is on the topic."""
        needed = self.before[step]
        there = [self.said(world, Fact(Meaning.DONE, i)) for i in range(len(self.steps)) if needed >> i & 1]
        return (any if self.protocol.joins_early and there else all)(there)

    def _owner(self, world: World, step: int, part: Part) -> Iterator[Move]:
        """List what the step's owner may do by itself, or for a trigger."""
        decided = self.decide(part, step, StepMessage.TRIGGER)
        if decided.action in {Action.RUN, Action.STORE_INPUT} and self.triggered(world, step):
            yield from self._begin(world, step, part, decided)
        match part.status:
            case None if self.waits[step] and part.closed:
                yield Move(
                    "report", step, self.put(world, step, part.after(self.decide(part, step, StepMessage.REPORT)))
                )
            case RowStatus.RETRY:
                yield from self._run(world, step, part, self.decide(part, step, StepMessage.DUE))
            case RowStatus.INTENT:
                yield from self._ask(world, step, part)
            case RowStatus.WAITING if part.closed and (part.bar_seen or self.triggered(world, step)):
                yield self._conclude(world, step, part)
            case RowStatus.COMPENSATING:
                yield from self._undo(world, step, part)
            case _:
                pass

    def decide(self, part: Part, step: int, message: StepMessage, round_: int = 1) -> Transition:
        """Return what the protocol makes of a message."""
        return self.protocol.decide(part, message, self.steps[step], round_)

    def _begin(self, world: World, step: int, part: Part, decided: Transition) -> Iterator[Move]:
        """Take a trigger; a step that waits for the outside, or a join, keeps it in its row first."""
        if decided.action is Action.RUN:
            yield from self._run(world, step, part, decided)
        elif self.waits[step]:
            yield Move("wait", step, self.put(world, step, part.after(decided)))
        else:
            kept = part.after(decided)
            yield from self._run(world, step, kept, self.decide(kept, step, StepMessage.INPUTS_COMPLETE))

    def _run(self, world: World, step: int, part: Part, decided: Transition) -> Iterator[Move]:
        """Begin an attempt: a remote one is a call after its intent, a local one is over at once."""
        begun = part.after(decided)
        if step in self.budget.remote:
            yield Move("intent", step, self.put(world, step, begun._replace(calling=True)))
            return
        paid = step == self.budget.paid_by
        if not paid or world.free > 0 or self.protocol.overdraws:
            after = world._replace(free=world.free - paid)
            happened = begun._replace(stands=True, done=part.done + 1)
            yield self._outcome(after, step, happened, StepMessage.SUCCEEDED)
            if self.protocol.publishes_first:
                said = self.say(world, Fact(Meaning.DONE, step, part.round))
                yield Move("dies after publishing", step, said)
        if self.steps[step].rejects is not None:
            yield self._outcome(world, step, begun, StepMessage.REFUSED)
        if step in self.budget.raising:
            yield self._outcome(world, step, begun, StepMessage.FAILED)

    def _outcome(self, world: World, step: int, part: Part, message: StepMessage) -> Move:
        """Commit what is decided on the outcome of an attempt, and publish the answer if it is one."""
        after = part.after(self.decide(part, step, message))
        facts = [self._answer(step, after)] if after.status is not RowStatus.RETRY else []
        return Move(_NAMES[after.status or RowStatus.DONE], step, self.put(world, step, after, *facts))

    def _ask(self, world: World, step: int, part: Part) -> Iterator[Move]:
        """Drive an intent on: not found is an answer only once the call has expired."""
        unknown = Fact(Meaning.UNKNOWN, step)
        if not part.bar_seen and not self.said(world, unknown):
            yield Move("unknown", step, self.say(world, unknown))
        if part.stands:
            yield self._outcome(world, step, part, StepMessage.SUCCEEDED)
        elif not part.calling or self.protocol.believes_not_found:
            yield self._outcome(world, step, part, StepMessage.FAILED)

    def _far_side(self, world: World, step: int, part: Part) -> Iterator[Move]:
        """List what may happen out there: calls land or expire, and what is waited for happens, or never will."""
        if part.calling:
            landed = part._replace(stands=True, calling=False, done=part.done + 1)
            yield Move("lands", step, self.put(world, step, landed))
            yield Move("expires", step, self.put(world, step, part._replace(calling=False)))
        needed = (world.parts[i].stands for i in range(len(self.steps)) if self.before[step] >> i & 1)
        if self.waits[step] and not part.closed and all(needed):
            happened = part._replace(stands=True, closed=True, done=1)
            yield Move("happens", step, self.put(world, step, happened), optional=True)
            if self.steps[step].rejects is not None:
                yield Move("never will", step, self.put(world, step, part._replace(closed=True)), optional=True)
        late = Fact(Meaning.CONTRADICTED, step, id="late")
        if self.waits[step] and part.status is RowStatus.BARRED and part.stands and not self.said(world, late):
            yield Move("contradicts", step, self.say(world, late))

    def _conclude(self, world: World, step: int, part: Part) -> Move:
        return self._outcome(world, step, part, StepMessage.SUCCEEDED if part.stands else StepMessage.REFUSED)

    def _order(self, world: World, order: StepCommand, part: Part) -> Iterator[Move]:
        match order:
            case BarStep(step):
                yield from self._bar(world, step, part)
            case CompensateStep(step, round_):
                yield from self._compensate(world, step, part, round_)
            case _:
                decided = self.decide(part, order.step, StepMessage.RETRY, order.round)
                if decided.action is Action.RUN:
                    yield from self._run(world, order.step, part, decided)
                elif decided.action is Action.REPEAT_ANSWER:
                    yield Move("answer again", order.step, self.say(world, self._answer(order.step, part)))

    def _bar(self, world: World, step: int, part: Part) -> Iterator[Move]:
        if self.protocol.two_rows:
            barred = Fact(Meaning.BARRED, step, part.round)
            if not self.said(world, barred):
                yield Move("barred beside", step, self.say(world, barred))
            return
        decided = self.decide(part, step, StepMessage.BAR)
        after = part.after(decided)
        match decided.action:
            case Action.ANSWER:
                yield Move("barred", step, self.put(world, step, after, self._answer(step, after)))
            case Action.SETTLE if not part.bar_seen:
                yield Move("bar seen", step, self.put(world, step, after))
            case Action.BAR_FAR_SIDE if part.closed:
                yield self._conclude(world, step, after)
            case Action.BAR_FAR_SIDE:
                yield Move("bar cancels", step, self.put(world, step, after._replace(closed=True)))
            case Action.REPEAT_ANSWER:
                yield Move("answer again", step, self.say(world, self._answer(step, part)))
            case _:
                pass

    def _compensate(self, world: World, step: int, part: Part, round_: int) -> Iterator[Move]:
        decided = self.decide(part, step, StepMessage.COMPENSATE, round_)
        match decided.action:
            case Action.COMPENSATE if step in self.budget.remote:
                yield Move("undo begins", step, self.put(world, step, part.after(decided)))
            case Action.COMPENSATE:
                yield from self._undo(world, step, part.after(decided))
            case Action.ANSWER_COMPENSATION:
                after = part.after(decided)
                yield Move("undo fails", step, self.put(world, step, after, self._back_answer(step, after)))
            case Action.REPEAT_COMPENSATION_ANSWER:
                yield Move("answer back again", step, self.say(world, self._back_answer(step, part)))
            case _:
                pass

    def _undo(self, world: World, step: int, part: Part) -> Iterator[Move]:
        """Take a step back, unless the outside has acted on it; nothing that waits on it can happen any more."""
        waiting = [i for i, own in enumerate(self.before) if own >> step & 1 and self.waits[i]]
        failed = part.after(self.decide(part, step, StepMessage.COMPENSATION_FAILED_FOR_GOOD))
        if any(world.parts[i].stands for i in waiting):
            yield Move("undo fails", step, self.put(world, step, failed, self._back_answer(step, failed)))
            return
        if world.undo_failures:
            left = world._replace(undo_failures=world.undo_failures - 1)
            yield Move("undo fails", step, self.put(left, step, failed, self._back_answer(step, failed)))
        after = world._replace(free=world.free + (step == self.budget.paid_by))
        for i in waiting:
            after = self.put(after, i, after.parts[i]._replace(closed=True))
        decided = part.after(self.decide(part, step, StepMessage.COMPENSATED))
        undone = decided._replace(stands=False, undone=part.undone + 1)
        yield Move("undone", step, self.put(after, step, undone, self._back_answer(step, undone)))

    def _answer(self, step: int, part: Part) -> Fact:
        """Return what an answered step says forward."""
        back = part.status in {RowStatus.COMPENSATED, RowStatus.COMPENSATION_FAILED, RowStatus.COMPENSATING}
        status = RowStatus.DONE if back or part.status is None else part.status
        return Fact(_ANSWERS[status], step, part.round)

    def _back_answer(self, step: int, part: Part) -> Fact:
        return Fact(_ANSWERS[part.status or RowStatus.COMPENSATED], step, part.back_round)
