"""The five steps of the small test saga, one of each kind."""

from dataclasses import dataclass
from typing import Any

from tests.e2e import messages as m
from tradesaga.sagas.definition import seconds
from tradesaga.sagas.step import CompensatableStep, Retry, Step, step

QUICK = Retry(attempts=3, initial=0.02, maximum=0.1)
PATIENCE = 0.5
"""Seconds of an attempt."""
BUSY = 2.0
"""The same where no plan waits for one to run out: a busy machine must not make one do so."""


@dataclass(frozen=True)
class Steps:
    """The steps of one test saga, for tests that look at one of them."""

    book: CompensatableStep[m.Asked, m.Booked, m.BookRefused, m.Unbook, m.Unbooked]
    pay: CompensatableStep[m.Booked, m.Paid, m.PayRefused, m.Refund, m.Refunded]
    ship: CompensatableStep[m.Paid, m.Shipped, m.ShipRefused, m.Recall, m.Recalled]
    confirm: Step[m.Shipped, m.Confirmed, m.Lost]
    close: Step[m.Confirmed, m.Closed, Any]


def make_steps(patience: float = PATIENCE, retry: Retry = QUICK) -> Steps:
    """Make the steps; attempts are short, so that tests are. What a saga waits for is asked for often in any case."""
    limit = seconds(patience)
    return Steps(
        step("book", on=m.Asked, emits=m.Booked, rejects=m.BookRefused, compensate=m.Unbook, compensated=m.Unbooked,
             timeout=limit, retry=retry, compensation_retry=retry),
        step("pay", on=m.Booked, emits=m.Paid, rejects=m.PayRefused, compensate=m.Refund, compensated=m.Refunded,
             timeout=limit, retry=retry, compensation_retry=retry),
        step("ship", on=m.Paid, emits=m.Shipped, rejects=m.ShipRefused, compensate=m.Recall, compensated=m.Recalled,
             timeout=limit, retry=retry, compensation_retry=retry),
        step("confirm", on=m.Shipped, emits=m.Confirmed, rejects=m.Lost, waits_for=m.Report,
             timeout=seconds(min(patience, PATIENCE))),
        step("close", on=m.Confirmed, emits=m.Closed, timeout=limit, retry=retry),
    )  # fmt: skip
