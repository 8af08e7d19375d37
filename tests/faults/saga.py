"""The saga that the fault run breaks: two local steps, a remote order, a fill that is waited for, a step that must be.

`drill` holds money, takes a fee, places an order at an exchange, waits for its fill (the pivot), and pays.
"""

from dataclasses import dataclass
from typing import Any, Final

from tests.faults import messages as m
from tradesaga.sagas.definition import Saga, saga, seconds
from tradesaga.sagas.step import CompensatableStep, Retry, Step, step

NAME: Final = "drill"
LOCAL_SECONDS: Final = 3.0
ORDER_SECONDS: Final = 2.0
FILL_SECONDS: Final = 1.5
DEADLINE_SECONDS: Final = 30.0
STEPS: Final = ("reserve", "charge", "order", "fill", "settle")

_RETRY: Final = Retry(attempts=4, initial=0.1, maximum=1.0)
_BACK: Final = Retry(attempts=12, initial=0.1, maximum=2.0)
_LAST: Final = Retry(attempts=5, initial=0.1, maximum=1.0)


@dataclass(frozen=True)
class Drill:
    """The definition under one version, and its steps."""

    saga: Saga[Any]
    reserve: CompensatableStep[m.Asked, m.Reserved, m.ReserveRefused, m.Release, m.Released]
    charge: CompensatableStep[m.Reserved, m.Charged, m.ChargeRefused, m.Refund, m.Refunded]
    order: CompensatableStep[m.Charged, m.Ordered, m.OrderRefused, m.CancelOrder, m.OrderCancelled]
    fill: Step[m.Ordered, m.Filled, m.FillLost]
    settle: Step[m.Filled, m.Settled, Any]


def make_drill(version: int = 1) -> Drill:
    """Define the saga; a second version differs in nothing but its number, as an unlucky deploy might."""
    local, order, fill = seconds(LOCAL_SECONDS), seconds(ORDER_SECONDS), seconds(FILL_SECONDS)
    reserve = step(
        "reserve", on=m.Asked, emits=m.Reserved, rejects=m.ReserveRefused, compensate=m.Release,
        compensated=m.Released, timeout=local, retry=_RETRY, compensation_retry=_BACK,
    )  # fmt: skip
    charge = step(
        "charge", on=m.Reserved, emits=m.Charged, rejects=m.ChargeRefused, compensate=m.Refund,
        compensated=m.Refunded, timeout=local, retry=_RETRY, compensation_retry=_BACK,
    )  # fmt: skip
    ordering = step(
        "order", on=m.Charged, emits=m.Ordered, rejects=m.OrderRefused, compensate=m.CancelOrder,
        compensated=m.OrderCancelled, timeout=order, retry=_RETRY, compensation_retry=_BACK,
    )  # fmt: skip
    filling = step("fill", on=m.Ordered, emits=m.Filled, rejects=m.FillLost, waits_for=m.Report, timeout=fill)
    settle = step("settle", on=m.Filled, emits=m.Settled, timeout=local, retry=_LAST)
    named = saga(NAME, version=version, deadline=seconds(DEADLINE_SECONDS)).then(reserve).then(charge)
    return Drill(named.then(ordering).then(filling).then(settle), reserve, charge, ordering, filling, settle)
