"""The messages of the test sagas. A start's `plan` says, step by step, how the handlers are to behave."""

from decimal import Decimal

from pydantic import Field

from tradesaga.schemas.amounts import Quantity
from tradesaga.schemas.messages.message import Compensation, Event


class Asked(Event):
    """The start. `plan` maps a step, or its compensation (`un` before it), to a behaviour; see `tests.e2e.plan`."""

    idempotency_key: str
    account: str = "alice"
    amount: Quantity = Decimal("10.5")
    plan: dict[str, str] = Field(default_factory=dict[str, str])


class Booked(Event):
    """Step `book` is done."""

    amount: str
    pad: str = ""


class BookRefused(Event):
    """Step `book` refuses."""

    reason: str


class Unbook(Compensation):
    """Take `book` back."""


class Unbooked(Event):
    """`book` is taken back."""


class Paid(Event):
    """Step `pay` is done."""

    amount: str
    attempt: int


class PayRefused(Event):
    """Step `pay` refuses."""

    reason: str


class Refund(Compensation):
    """Take `pay` back."""


class Refunded(Event):
    """`pay` is taken back; it says what it saw of the saga."""

    amount: str


class Shipped(Event):
    """Step `ship` is done; `ref` is the far side's key."""

    ref: str


class ShipRefused(Event):
    """Step `ship` refuses."""

    reason: str


class Recall(Compensation):
    """Take `ship` back."""


class Recalled(Event):
    """`ship` is taken back."""


class Confirmed(Event):
    """Step `confirm` is done: the pivot."""

    reports: int


class Lost(Event):
    """Step `confirm` refuses: the far side will never confirm."""

    reason: str


class Report(Event):
    """What the far side says: `kind` is progress, done, lost or busted."""

    report_id: str
    kind: str


class Closed(Event):
    """Step `close`, the last one, is done; it says what it saw of the saga."""

    account: str
    amount: str
    ref: str


class Opened(Event):
    """The first step of the forked saga is done."""

    number: str


class Left(Event):
    """One branch is done."""

    side: str = "left"


class Right(Event):
    """The other branch is done."""

    side: str = "right"


class Unopen(Compensation):
    """Take the first step back."""


class Unopened(Event):
    """The first step is taken back."""


class UndoLeft(Compensation):
    """Take one branch back."""


class LeftUndone(Event):
    """One branch is taken back."""


class UndoRight(Compensation):
    """Take the other branch back."""


class RightUndone(Event):
    """The other branch is taken back."""


class Met(Event):
    """Both branches have met; `seen` names the facts that were there."""

    seen: list[str]


class Parted(Event):
    """The branches do not meet."""

    reason: str
