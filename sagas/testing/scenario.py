"""Scenarios: state what happened, which commands followed, and how the saga ends."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import permutations, product
from math import factorial, prod

from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.facts import Fact, Meaning, Vocabulary
from tradesaga.sagas.machine import BarStep, CompensateStep, Machine, State, StepCommand
from tradesaga.sagas.status import Status
from tradesaga.sagas.testing.facts import GivenFact
from tradesaga.schemas.messages.lifecycle import Bar, DeadlineElapsed, Retry
from tradesaga.schemas.messages.message import Command, Event, wire_type

GivenEvent = GivenFact | Event | type[Event]
Commanded = Command | type[Command]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A saga so far; every method returns the continued scenario. Failed expectations raise `AssertionError`."""

    machine: Machine
    vocabulary: Vocabulary
    state: State
    facts: tuple[Fact, ...] = ()
    orders: tuple[StepCommand, ...] = ()
    refusal: str = ""
    now: timedelta = timedelta()
    started_at: timedelta | None = None

    @property
    def status(self) -> Status:
        """Return the saga's status."""
        return self.machine.status(self.state)

    def happened(self, *said: GivenEvent) -> "Scenario":
        """Fold these facts in this order; an event's type stands for any value."""
        scenario = self
        for each in said:
            scenario = scenario._fold(scenario._read(each))
        return scenario

    def after(self, time: timedelta) -> "Scenario":
        """Advance a virtual clock; an open saga past its deadline gets its `DeadlineElapsed`, once."""
        scenario = replace(self, now=self.now + time)
        if scenario.started_at is None or any(fact.meaning is Meaning.DEADLINE for fact in scenario.facts):
            return scenario
        due = scenario.now - scenario.started_at >= self.machine.saga.deadline
        open_ = scenario.status in {Status.IDLE, Status.RUNNING, Status.COMPENSATING}
        return (
            scenario.happened(DeadlineElapsed(deadline=str(self.machine.saga.deadline))) if due and open_ else scenario
        )

    def commands(self, *expected: Commanded) -> "Scenario":
        """Assert exactly these commands, in this order, since the last call."""
        wanted, found = [_spell(each) for each in expected], [self._spell_order(each) for each in self.orders]
        pairs = zip(wanted, found, strict=False)
        if len(wanted) != len(found) or any(want != full and not full.startswith(f"{want} ") for want, full in pairs):
            raise AssertionError(f"{self._name}: commands {found} were given, not {wanted}")
        return replace(self, orders=())

    def refused(self) -> "Scenario":
        """Assert that the operator's last decision was refused."""
        if not self.refusal:
            raise AssertionError(f"{self._name}: the last decision was taken; the saga is {self.status}")
        return self

    def is_now(self, status: Status) -> "Scenario":
        """Assert the saga's current status."""
        if self.status is not status:
            waits = self.machine.missing(self.state)
            raise AssertionError(f"{self._name}: is {self.status}, not {status}; it waits for {waits}")
        return self

    def ends(self, status: Status) -> "Scenario":
        """Assert the saga's status, and that no command is left that `commands` has not checked."""
        return self.is_now(status).commands()

    def in_any_order(self, *, samples: int = 200, seed: int = 0) -> "Scenario":
        """Assert that the saga ends the same in any order of its step facts, with repeats.

        Facts keep their position relative to deadlines and operators' decisions. All orders are tried if they are at
        most `samples`, otherwise that many are drawn with `seed`.
        """
        for facts in _reorder(self.facts, samples, random.Random(seed)):  # noqa: S311 - a test's draw, no secret
            state = self.machine.begin()
            for fact in facts:
                state = self.machine.fold(state, fact).state
            if (status := self.machine.status(state)) is not self.status:
                told = [f"{fact.meaning.value} {fact.step}" for fact in facts]
                raise AssertionError(f"{self._name}: ends {status}, not {self.status}, when told as {told}")
        return self

    @property
    def _name(self) -> str:
        return self.machine.saga.name

    def _read(self, said: GivenEvent) -> Fact:
        message = said.message if isinstance(said, GivenFact) else said
        kind = message if isinstance(message, type) else type(message)
        value = message.to_wire() if isinstance(message, Event) else b"{}"
        step = said.step if isinstance(said, GivenFact) else str(getattr(message, "step", ""))
        round_ = said.round if isinstance(said, GivenFact) else 1
        try:
            ce_type = wire_type(self._name, kind)
            return self.vocabulary.read(ce_type, f"fact-{len(self.facts)}", step, round_, value)
        except KeyError:
            about = f" of step {step!r}" if step else ""
            raise AssertionError(f"{self._name}: {kind.__name__}{about} is no fact of this saga") from None

    def _fold(self, fact: Fact) -> "Scenario":
        folded = self.machine.fold(self.state, fact)
        started_at = self.now if fact.meaning is Meaning.STARTED and self.started_at is None else self.started_at
        return replace(
            self, state=folded.state, facts=(*self.facts, fact), orders=(*self.orders, *folded.orders),
            refusal=folded.refusal, started_at=started_at,
        )  # fmt: skip

    def _spell_order(self, order: StepCommand) -> str:
        step = self.machine.saga.steps[order.step]
        if isinstance(order, BarStep):
            return _spell(Bar(step=step.name))
        if isinstance(order, CompensateStep) and step.back is not None:
            return _spell(step.back[0])
        return _spell(Retry(step=step.name, round=order.round))


def given(saga: AnySaga) -> Scenario:
    """Start a scenario without facts."""
    machine = Machine(saga)
    return Scenario(machine, Vocabulary(saga), machine.begin())


def _spell(command: Commanded) -> str:
    """Format a command; the types `Bar` and `Retry` match those of any step."""
    match command:
        case Bar():
            return f"Bar {command.step}"
        case Retry():
            return f"Retry {command.step} round {command.round}"
        case Command():
            return type(command).__name__
        case _:
            return command.__name__


def _reorder(facts: Sequence[Fact], samples: int, chance: random.Random) -> Iterator[list[Fact]]:
    """Yield permutations, with repeats, of the facts between those whose position matters."""
    stretches: list[list[Fact]] = [[]]
    for fact in facts:
        if fact.meaning is Meaning.DEADLINE or fact.meaning.by_operator:
            stretches += [[fact], []]
        else:
            stretches[-1].append(fact)
    if prod(factorial(len(stretch)) for stretch in stretches) <= samples:
        for order in product(*(permutations(stretch) for stretch in stretches)):
            yield [fact for stretch in order for fact in stretch]
    for _ in range(samples):
        yield [fact for stretch in stretches for fact in _shuffle(stretch, chance)]


def _shuffle(stretch: list[Fact], chance: random.Random) -> list[Fact]:
    repeated = [fact for fact in stretch for _ in range(chance.randint(1, 3))]
    return chance.sample(repeated, len(repeated))
