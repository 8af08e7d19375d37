"""The plays: sagas so small that all of their states can be visited, each with troubles of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sagas import saga, seconds, step
from sagas.definition import AnySaga
from sagas.fact import Meaning
from schemas.message import Compensation, Event
from tests.model import small_trade as m
from tests.model.protocol import Protocol, shipped
from tests.model.search import Pair, Solo
from tests.model.small_trade import PLACE, RESERVE, SETTLE, small_trade
from tests.model.stage import Budget, Stage


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

    def perform(self, make: Callable[[AnySaga], Protocol] = shipped) -> "Solo | Pair":
        """Give the play, under the shipped rules or broken ones."""
        stage = Stage(make(self.saga), self.budget)
        return Pair(stage) if self.pair else Solo(stage)


PLAYS: Final[Mapping[str, Billing]] = {
    # Late calls, lost answers, time-outs, bars, a deadline, fills that race the cancel.
    "trade": Billing(small_trade, Budget(remote={PLACE}, raising={RESERVE})),
    # The venue's word against the books, and a person who closes the case.
    "bust": Billing(small_trade, Budget(remote={PLACE}, busts=1, decisions=1, decides=(Meaning.RESOLVE,))),
    # Everything on the topic may come twice, at any later moment.
    "repeats": Billing(short, Budget(repeats=2, attempts=1, raising={SETTLE})),
    # People abort, retry, skip and resolve; compensations fail; what must succeed runs out of attempts.
    "rounds": Billing(short, Budget(
        decisions=2, decides=_DECISIONS, undo_failures=2, attempts=1, raising={RESERVE, PLACE, SETTLE}, repeats=1,
    )),
    "fork": Billing(forked, Budget(remote={1}, undo_failures=1)),
    "account": Billing(tiny, Budget(paid_by=RESERVE, attempts=1, raising={2}), pair=True),
}  # fmt: skip
