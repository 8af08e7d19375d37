"""One trade, its owners, its venue and its saga log, as a state from which every next state can be listed.

Messages, once emitted, may be handled at any time and any number of times; the saga log reads its topic in order; a
call to the venue may be answered, lost, or land late within its expiry; a crash is the absence of a transition. What
the saga log decides is the shipped `Machine`; what a message does to a step's row is the
shipped `decide`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

from tests.model.protocol import Decide
from tests.model.scene import Part
from tests.model.small_trade import CONFIRM, PLACE, RESERVE, SETTLE, small_trade
from tradesaga.sagas.decide import Action, StepMessage, Transition, decide
from tradesaga.sagas.facts import Fact, Meaning
from tradesaga.sagas.machine import BarStep, Machine, State, StepCommand
from tradesaga.sagas.status import Status
from tradesaga.sagas.step_state import RowStatus

Said = tuple[Meaning, int]
Move = tuple[str, "World"]
ATTEMPTS = 2


class Book(Enum):
    """Where the order stands at the venue."""

    NONE = "none"
    RESTING = "resting"
    FILLED = "filled"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class World:
    """Everything that can differ between two moments of one trade; `calling`: a call to the venue is on the wire."""

    rows: tuple[RowStatus | None, ...] = (None,) * 4
    bar_seen: bool = False
    attempts: int = 0
    calling: bool = False
    book: Book = Book.NONE
    settled: bool = False
    log: tuple[Said, ...] = ((Meaning.STARTED, -1),)
    read: int = 0
    undone: tuple[int, ...] = ()

    def said(self, meaning: Meaning, step: int) -> bool:
        """Say whether this fact is on the topic."""
        return (meaning, step) in self.log

    def with_row(self, step: int, status: RowStatus, *facts: Said) -> "World":
        """Move a step's row on, and publish what it answers; what is on the topic already adds nothing."""
        rows = (*self.rows[:step], status, *self.rows[step + 1 :])
        new = tuple(fact for fact in facts if fact not in self.log)
        return replace(self, rows=rows, log=self.log + new)


@dataclass(frozen=True, slots=True)
class Known:
    """What the saga log has made of the topic up to a point."""

    state: State
    status: Status
    orders: frozenset[StepCommand]


@dataclass(frozen=True, slots=True)
class Protocol:
    """The parts that can be replaced by broken ones, to see that the model notices."""

    machine: Machine = field(default_factory=lambda: Machine(small_trade))
    decide: Decide = decide
    sends_again_early: bool = False
    known: dict[tuple[Said, ...], Known] = field(default_factory=dict[tuple[Said, ...], Known])

    def fold(self, log: tuple[Said, ...]) -> Known:
        """Fold the topic, one fact after another, remembering every prefix."""
        if not log:
            begun = self.machine.begin()
            return Known(begun, self.machine.status(begun), frozenset())
        if log not in self.known:
            before = self.fold(log[:-1])
            meaning, step = log[-1]
            folded = self.machine.fold(before.state, Fact(meaning, step, id="venue"))
            self.known[log] = Known(folded.state, folded.status, before.orders.union(folded.orders))
        return self.known[log]

    def moves(self, world: World) -> Iterator[Move]:
        """List all that may happen next."""
        known = self.fold(world.log[: world.read])
        if world.read < len(world.log):
            yield "fold", replace(world, read=world.read + 1)
        if not world.said(Meaning.DEADLINE, -1) and known.status in _UNDER_WAY:
            yield "deadline", replace(world, log=(*world.log, (Meaning.DEADLINE, -1)))
        yield from _reserve(world)
        yield from _place(world)
        yield from self._place_settles(world)
        yield from _confirm(world)
        yield from _settle(world)
        for order in known.orders:
            yield from self._bar(world, order.step) if isinstance(order, BarStep) else _compensate(world, order.step)

    def _place_settles(self, world: World) -> Iterator[Move]:
        """The owner of an unanswered call asks the venue; not found is an answer only once the call has expired."""
        if world.rows[PLACE] is RowStatus.INTENT:
            if not world.said(Meaning.UNKNOWN, PLACE):
                yield "time-out", world.with_row(PLACE, RowStatus.INTENT, (Meaning.UNKNOWN, PLACE))
            if world.book is not Book.NONE:
                yield "known placed", world.with_row(PLACE, RowStatus.DONE, (Meaning.DONE, PLACE))
            elif not world.calling or self.sends_again_early:
                yield from _place_never_was(world)

    def _bar(self, world: World, step: int) -> Iterator[Move]:
        decided = self.decide(Part(world.rows[step]), StepMessage.BAR, small_trade.steps[step], 1)
        match decided.action:
            case Action.ANSWER:
                yield "barred", world.with_row(step, RowStatus.BARRED, (Meaning.BARRED, step))
            case Action.SETTLE if not world.bar_seen:
                yield "bar seen", replace(world, bar_seen=True)
            case Action.BAR_FAR_SIDE if world.book is Book.FILLED:
                yield "barred: filled", world.with_row(CONFIRM, RowStatus.DONE, (Meaning.DONE, CONFIRM))
            case Action.BAR_FAR_SIDE if world.book is Book.CANCELLED:
                yield "barred: cancelled", world.with_row(CONFIRM, RowStatus.BARRED, (Meaning.BARRED, CONFIRM))
            case Action.BAR_FAR_SIDE:
                yield "bar cancels", replace(world, book=Book.CANCELLED)
            case _:
                pass


def _decide(world: World, step: int, message: StepMessage) -> Transition:
    return decide(Part(world.rows[step]), message, small_trade.steps[step])


_UNDER_WAY = {Status.IDLE, Status.RUNNING, Status.COMPENSATING}


def _reserve(world: World) -> Iterator[Move]:
    if _decide(world, RESERVE, StepMessage.TRIGGER).action is Action.RUN:
        yield "reserve", world.with_row(RESERVE, RowStatus.DONE, (Meaning.DONE, RESERVE))
        yield "refuse", world.with_row(RESERVE, RowStatus.REFUSED, (Meaning.REFUSED, RESERVE))


def _place(world: World) -> Iterator[Move]:
    """Intent first, then the call, which the venue takes now, late, or never."""
    row = world.rows[PLACE]
    fresh = world.said(Meaning.DONE, RESERVE) and _decide(world, PLACE, StepMessage.TRIGGER).action is Action.RUN
    again = row is RowStatus.RETRY and world.attempts < ATTEMPTS
    if fresh or again:
        intent = world.with_row(PLACE, RowStatus.INTENT)
        yield "intent", replace(intent, attempts=world.attempts + 1, calling=True)
    if row is RowStatus.RETRY and world.attempts >= ATTEMPTS:
        yield "exhausted", world.with_row(PLACE, RowStatus.FAILED, (Meaning.FAILED, PLACE))
    if world.calling:
        if world.book is Book.NONE:
            yield "venue takes order", replace(world, book=Book.RESTING, calling=False)
        yield "call expires", replace(world, calling=False)


def _place_never_was(world: World) -> Iterator[Move]:
    if world.bar_seen:
        yield "known not, barred", world.with_row(PLACE, RowStatus.BARRED, (Meaning.BARRED, PLACE))
    else:
        yield "known not, retry", world.with_row(PLACE, RowStatus.RETRY)
        yield "known not, failed", world.with_row(PLACE, RowStatus.FAILED, (Meaning.FAILED, PLACE))


def _confirm(world: World) -> Iterator[Move]:
    """The venue fills; the report waits in the row for the trigger, or contradicts what the row has answered."""
    row, filled, triggered = world.rows[CONFIRM], world.book is Book.FILLED, world.said(Meaning.DONE, PLACE)
    if world.book is Book.RESTING:
        yield "fill", replace(world, book=Book.FILLED)
    if row is None and (triggered or filled):
        yield "wait", world.with_row(CONFIRM, RowStatus.WAITING)
    if row in {None, RowStatus.WAITING} and filled and triggered:
        yield "filled", world.with_row(CONFIRM, RowStatus.DONE, (Meaning.DONE, CONFIRM))
    if row is RowStatus.BARRED and filled and not world.said(Meaning.CONTRADICTED, CONFIRM):
        yield "contradicted", world.with_row(CONFIRM, row, (Meaning.CONTRADICTED, CONFIRM))


def _settle(world: World) -> Iterator[Move]:
    if world.said(Meaning.DONE, CONFIRM) and _decide(world, SETTLE, StepMessage.TRIGGER).action is Action.RUN:
        yield "settle", replace(world.with_row(SETTLE, RowStatus.DONE, (Meaning.DONE, SETTLE)), settled=True)


def _compensate(world: World, step: int) -> Iterator[Move]:
    if _decide(world, step, StepMessage.COMPENSATE).action is not Action.COMPENSATE:
        return
    if step == PLACE and world.book is Book.FILLED:
        yield (
            "cancel too late",
            world.with_row(step, RowStatus.COMPENSATION_FAILED, (Meaning.COMPENSATION_FAILED, step)),
        )
        return
    taken_back = world.with_row(step, RowStatus.COMPENSATED, (Meaning.COMPENSATED, step))
    book = Book.CANCELLED if step == PLACE else world.book
    yield "take back", replace(taken_back, book=book, undone=(*world.undone, step))
