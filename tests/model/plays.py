"""The plays: sagas so small that all of their states can be visited, each with troubles of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.model import small_trade as m
from tests.model.protocol import Protocol, shipped
from tests.model.scene import Budget
from tests.model.search import Pair, Solo, Visited, visit
from tests.model.small_trade import PLACE, RESERVE, SETTLE, small_trade
from tests.model.stage import Stage
from tradesaga.sagas import saga, seconds, step
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.facts import Meaning
from tradesaga.schemas.messages.message import Compensation, Event


class Left(Event):
    """One branch is done."""


class Right(Event):
    """The other branch is done."""


class UndoLeft(Compensation):
    """Take one branch back."""


class UndoRight(Compensation):
    """Take the other branch back."""


class LeftUndone(Event):
    """One branch is taken back."""


class RightUndone(Event):
    """The other branch is taken back."""


class Met(Event):
    """Both branches have met."""


class Parted(Event):
    """The branches do not meet."""


_reserve = step(
    "reserve", on=m.Asked, emits=m.Reserved, rejects=m.Refused, compensate=m.Release, compensated=m.Released
)
_place = step("place", on=m.Reserved, emits=m.Placed, compensate=m.Cancel, compensated=m.Cancelled)
_fill = step("fill", on=m.Placed, emits=m.Filled, rejects=m.Unfilled)
_settle = step("settle", on=m.Filled, emits=m.Settled)

short: AnySaga = saga("short", version=1, deadline=seconds(60)).then(_reserve).then(_place).then(_fill).then(_settle)
"""Four local steps, the third of them the pivot."""
tiny: AnySaga = (
    saga("tiny", version=1, deadline=seconds(60))
    .then(_reserve)
    .then(step("fill", on=m.Reserved, emits=m.Filled, rejects=m.Unfilled))
    .then(_settle)
)
"""Three local steps, the second of them the pivot."""
waiting: AnySaga = (
    saga("waiting", version=1, deadline=seconds(60))
    .then(_reserve)
    .then(step("confirm", on=m.Reserved, emits=m.Filled, rejects=m.Unfilled, waits_for=m.Report))
    .then(_settle)
)
"""Three steps, the second of them a pivot that waits for the outside."""
forked: AnySaga = (
    saga("forked", version=1, deadline=seconds(60))
    .then(_reserve)
    .also(step("left", on=m.Reserved, emits=Left, compensate=UndoLeft, compensated=LeftUndone))
    .also(step("right", on=m.Reserved, emits=Right, compensate=UndoRight, compensated=RightUndone))
    .also(step("meet", on=(Left, Right), emits=Met, rejects=Parted))
)
"""Two branches, one of them a remote call, and the pivot where they meet."""

_DECISIONS: Final = (Meaning.ABORT, Meaning.RETRY, Meaning.SKIP, Meaning.RESOLVE)


@dataclass(frozen=True, slots=True)
class Billing:
    """A play before its protocol is chosen: the saga, its troubles, and whether two of them share an account."""

    saga: AnySaga
    budget: Budget
    pair: bool = False

    def visit(self, make: Callable[[AnySaga], Protocol] = shipped) -> Visited:
        """Visit every state, under the shipped rules or broken ones."""
        stage = Stage(make(self.saga), self.budget)
        return visit(Pair(stage)) if self.pair else visit(Solo(stage))


PLAYS: Final[Mapping[str, Billing]] = {
    # Late calls, lost answers, time-outs, bars, a deadline, fills that race the cancel.
    "trade": Billing(small_trade, Budget(remote={PLACE}, raising={RESERVE})),
    # The venue's word against the books, and a person who closes the case.
    "bust": Billing(small_trade, Budget(remote={PLACE}, busts=1, decisions=1, decides=(Meaning.RESOLVE,))),
    # Any fact comes once more, at any later moment.
    "repeats": Billing(small_trade, Budget(remote={PLACE}, repeats=1)),
    # People abort, retry, skip and resolve, twice; a compensation fails; what must succeed runs out of attempts.
    "rounds": Billing(short, Budget(decisions=2, decides=_DECISIONS, undo_failures=1, attempts=1, raising={SETTLE})),
    # The same, on a shorter way, with failures of old rounds that come again.
    "old rounds": Billing(
        tiny,
        Budget(decisions=2, decides={Meaning.RETRY}, undo_failures=1, attempts=1, raising={SETTLE - 1}, repeats=1),
    ),
    # An abort, and a recall that the far side refuses once.
    "recall": Billing(
        small_trade, Budget(remote={PLACE}, decisions=1, decides=_DECISIONS, undo_failures=1, raising={SETTLE})
    ),
    # Two branches, one of them a remote call, and a join.
    "fork": Billing(forked, Budget(remote={1}, undo_failures=1)),
    # A person has every owner say again what came of its step, at any moment.
    "recheck": Billing(waiting, Budget(remote={RESERVE}, decisions=1, decides={Meaning.RECHECK})),
    # The same, with a compensation that fails and what must succeed out of attempts.
    "recheck and rounds": Billing(
        tiny,
        Budget(decisions=1, decides={Meaning.RECHECK}, undo_failures=1, attempts=1, raising={SETTLE - 1}),
    ),
    # Nobody owns a step, or its owner comes late; a person goes on without it, or closes the saga.
    "nobody places": Billing(short, Budget(unowned=PLACE, decisions=1, decides=_DECISIONS, attempts=1)),
    "nobody settles": Billing(
        tiny, Budget(unowned=SETTLE - 1, decisions=1, decides={Meaning.RESOLVE, Meaning.RECHECK}, attempts=1)
    ),
    # Two sagas draw on an account that holds enough for one.
    "account": Billing(tiny, Budget(paid_by=RESERVE, attempts=1, raising={SETTLE - 1}), pair=True),
}
