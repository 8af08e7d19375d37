"""The smallest trade that has everything: a local step, a remote one, a waiting pivot, one that must succeed."""

from tradesaga.sagas import saga, seconds, step
from tradesaga.schemas.messages.message import Compensation, Event


class Asked(Event):
    """The start."""


class Reserved(Event):
    """Cash is set aside."""


class Refused(Event):
    """There is no cash."""


class Release(Compensation):
    """Give the cash back."""


class Released(Event):
    """The cash is free again."""


class Placed(Event):
    """The venue has the order."""


class Cancel(Compensation):
    """Take the order off the book."""


class Cancelled(Event):
    """The order is off the book."""


class Report(Event):
    """What the venue says of the order."""


class Filled(Event):
    """The order is filled."""


class Unfilled(Event):
    """The order ended without a fill."""


class Settled(Event):
    """Cash and position are booked."""


RESERVE, PLACE, CONFIRM, SETTLE = range(4)

small_trade = (
    saga("small", version=1, deadline=seconds(60))
    .then(step("reserve", on=Asked, emits=Reserved, rejects=Refused, compensate=Release, compensated=Released))
    .then(step("place", on=Reserved, emits=Placed, compensate=Cancel, compensated=Cancelled))
    .then(step("confirm", on=Placed, emits=Filled, rejects=Unfilled, waits_for=Report))
    .then(step("settle", on=Filled, emits=Settled))
)
