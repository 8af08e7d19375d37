"""The messages of the saga that the fault run breaks. A start's `plan` says how its steps are to behave."""

from decimal import Decimal

from pydantic import Field

from tradesaga.schemas.amounts import Quantity
from tradesaga.schemas.messages.message import Compensation, Event


class Asked(Event):
    """The start. `plan` maps a step, or its compensation (`un` before it), to a word; see `tests.faults.plan`."""

    idempotency_key: str
    account: str
    amount: Quantity = Decimal(10)
    plan: dict[str, str] = Field(default_factory=dict[str, str])


class Reserved(Event):
    """The amount is held."""

    amount: str


class ReserveRefused(Event):
    """The amount is not held."""

    reason: str


class Release(Compensation):
    """Give the amount back."""


class Released(Event):
    """The amount is back."""


class Charged(Event):
    """The fee is taken from the hold."""

    fee: str


class ChargeRefused(Event):
    """The fee is not taken."""

    reason: str


class Refund(Compensation):
    """Give the fee back."""


class Refunded(Event):
    """The fee is back."""


class Ordered(Event):
    """The exchange has the order; `ref` is its key there."""

    ref: str


class OrderRefused(Event):
    """The exchange does not take the order."""

    reason: str


class CancelOrder(Compensation):
    """Take the order back."""


class OrderCancelled(Event):
    """The order is closed without a fill."""


class Report(Event):
    """What the exchange says of an order: `kind` is filled, lost or cancelled."""

    report_id: str
    kind: str


class Filled(Event):
    """The order is filled: the pivot."""

    ref: str


class FillLost(Event):
    """The order will never be filled."""

    reason: str


class Settled(Event):
    """What was held has been paid: the last step."""

    amount: str
