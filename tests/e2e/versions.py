"""The small test saga in two versions that run side by side, and the participants that serve both.

Version 2 has a start with a field more, a step more (`weigh`), one less (`close`), another retry and another deadline.
"""

from dataclasses import replace
from typing import Any, cast

from tests.e2e import desk, port
from tests.e2e import messages as m
from tests.e2e.far import FarSide
from tests.e2e.plan import record
from tests.e2e.sagas import Kit
from tests.e2e.steps import PATIENCE, QUICK, Steps, make_steps
from tradesaga.consumers.participant import Participant, StepContext
from tradesaga.sagas.definition import Saga, saga, seconds
from tradesaga.sagas.step import Retry, step
from tradesaga.schemas.messages.message import Compensation, Event


class Weighed(m.Booked):
    """Step `weigh` is done: whoever takes `Booked` can take it too."""


class Unweigh(Compensation):
    """Take `weigh` back."""


class Unweighed(Event):
    """`weigh` is taken back."""


def _second_start() -> type[m.Asked]:
    class Asked(m.Asked, version=2):
        """The start of version 2."""

        note: str | None = None

    return Asked


AskedAgain = _second_start()
FIRST = ("book", "pay", "ship", "confirm", "close")
SECOND = ("book", "weigh", "pay", "ship", "confirm")


def make_versions(name: str, far: FarSide, *, deadline: float = 600.0, patience: float = PATIENCE) -> dict[str, Kit]:
    """Return the saga as it is deployed: `old` (version 1 alone), `both` (2 starts), `back` (1 starts), `new` (2).

    Times are seconds, `patience` that of an attempt.
    """
    steps, later = make_steps(patience, QUICK), _later(patience)
    first: Saga[Any] = saga(name, version=1, deadline=seconds(deadline)).then(steps.book).then(steps.pay)
    first = first.then(steps.ship).then(steps.confirm).then(steps.close)
    second: Saga[Any] = saga(name, version=2, deadline=seconds(deadline / 2)).then(later.book).then(WEIGH)
    second = second.then(later.pay).then(later.ship).then(steps.confirm)
    deployed = {"old": first, "both": second.alongside(first), "back": first.alongside(second), "new": second}
    return {key: _kit(whole, steps, later, far) for key, whole in deployed.items()}


WEIGH = step("weigh", on=m.Booked, emits=Weighed, compensate=Unweigh, compensated=Unweighed, retry=QUICK)


def _later(patience: float) -> Steps:
    """Return the steps of version 2 whose name version 1 has too; `confirm` is the very same."""
    again, limit = Retry(attempts=4, initial=0.01, maximum=0.05), seconds(patience)
    old = make_steps(patience, QUICK)
    book = step(
        "book", on=AskedAgain, emits=m.Booked, rejects=m.BookRefused, compensate=m.Unbook, compensated=m.Unbooked,
        timeout=limit, retry=again, compensation_retry=again,
    )  # fmt: skip
    # A handler of `pay` reads the amount, which both triggers have.
    pay: Any = step(
        "pay", on=Weighed, emits=m.Paid, rejects=m.PayRefused, compensate=m.Refund, compensated=m.Refunded,
        timeout=limit, retry=again, compensation_retry=again,
    )  # fmt: skip
    ship = replace(old.ship, retry=again, compensation_retry=again)
    return Steps(cast("Any", book), pay, ship, old.confirm, old.close)


def _kit(whole: Saga[Any], steps: Steps, later: Steps, far: FarSide) -> Kit:
    kit = Kit(whole, steps, Participant("desk", whole), Participant("port", whole))
    if 1 in whole.versions:
        desk.bind(kit.desk, steps, far)
        port.bind(kit.port, steps, far)
    if 2 in whole.versions:
        desk.bind_first(kit.desk, later, far)
        port.bind_ship(kit.port, later, far)
        _bind_weigh(kit.desk)
    if 1 not in whole.versions:
        port.bind_confirm(kit.port, steps, far)
    return kit


def _bind_weigh(service: Participant) -> None:
    @service.handles(WEIGH)
    async def weigh(event: m.Booked, ctx: StepContext) -> Weighed:
        assert ctx.sql is not None
        await record(ctx.sql, ctx, "weigh")
        return Weighed(amount=event.amount)

    @service.compensates(WEIGH)
    async def unweigh(command: Unweigh, ctx: StepContext) -> Unweighed:
        assert ctx.sql is not None
        await record(ctx.sql, ctx, "weigh", "back")
        return Unweighed()

    _ = weigh, unweigh
