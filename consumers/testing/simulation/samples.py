"""The two sample sagas of the simulation: an order with a step of each kind, and two branches that join."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final
from uuid import UUID

from pydantic import Field

from tradesaga.consumers.participant import Participant, StepContext
from tradesaga.consumers.testing.simulation.database import Statement
from tradesaga.consumers.testing.simulation.effects import FarSide, RemoteEffect, take_effect
from tradesaga.sagas.definition import AnySaga, saga, seconds
from tradesaga.sagas.step import AnyStep, CompensatableStep, Retry, step
from tradesaga.schemas.messages.message import Compensation, Event

Report = Callable[[UUID, Event], None]
"""Publishes an event of a saga from outside, as a feed would."""


@dataclass(frozen=True)
class SimulatedSaga:
    """A saga under simulation.

    `participants` binds handlers for one simulated world. Local ones call `take_effect`, or run SQL for which
    `statements` has a function; remote ones call the far side. `start` draws a start from its number within the
    schedule; the saga of number 0 has to be compensated, so that every schedule compensates. `stuck` returns whether a
    start has a planted failure that cannot be repaired, so that FAILED is its correct end.
    """

    saga: AnySaga
    participants: Callable[[FarSide, Report], Sequence[Participant]]
    start: Callable[[Random, int], Event]
    stuck: Callable[[Event], bool] = lambda _: False
    statements: Mapping[str, Statement] = field(default_factory=dict[str, Statement])
    partitions: int = 2


class Asked(Event):
    """The start. `plan` has the planned failure of each step and compensation, by name."""

    idempotency_key: str
    account: str
    plan: dict[str, str] = Field(default_factory=dict[str, str])


class Reserved(Event):
    """The money is held."""


class ReserveRefused(Event):
    """There is not enough money."""


class Unreserve(Compensation):
    """Release the money."""


class Unreserved(Event):
    """The money is released."""


class Placed(Event):
    """The far side has the order."""


class PlaceRefused(Event):
    """The far side has rejected the order."""


class Unplace(Compensation):
    """Cancel the order."""


class Unplaced(Event):
    """The order is cancelled."""


class Reported(Event):
    """A report of the far side on the order."""

    report_id: str
    state: str


class Filled(Event):
    """The order is filled: the saga can no longer be aborted."""


class Unfilled(Event):
    """The order has ended unfilled."""


class Settled(Event):
    """The order is paid."""


class Left(Event):
    """The local branch is done."""


class Unleft(Compensation):
    """Compensate the step."""


class LeftUndone(Event):
    """The step is compensated."""


class Right(Event):
    """The remote branch is done."""


class RightRefused(Event):
    """The far side has rejected the request."""


class Unright(Compensation):
    """Compensate the step."""


class RightUndone(Event):
    """The step is compensated."""


class Merged(Event):
    """Both branches are joined."""


class MergeRefused(Event):
    """The branches cannot be joined."""


QUICK: Final = Retry(attempts=3, initial=0.05, maximum=0.4)

DOGGED: Final = Retry(attempts=12, initial=0.05, maximum=1.0)

LIMIT: Final = seconds(1)


_Compensatable = CompensatableStep[Any, Any, Any, Any, Any]


class PlannedError(Exception):
    """An attempt fails as planned."""


RESERVE = step(
    "reserve", on=Asked, emits=Reserved, rejects=ReserveRefused, compensate=Unreserve, compensated=Unreserved,
    timeout=LIMIT, retry=QUICK, compensation_retry=QUICK,
)  # fmt: skip

PLACE = step(
    "place", on=Reserved, emits=Placed, rejects=PlaceRefused, compensate=Unplace, compensated=Unplaced,
    timeout=LIMIT, retry=QUICK, compensation_retry=DOGGED,
)  # fmt: skip

FILL = step("fill", on=Placed, emits=Filled, rejects=Unfilled, waits_for=Reported, timeout=LIMIT)

SETTLE = step("settle", on=Filled, emits=Settled, timeout=LIMIT, retry=QUICK)

ORDER = saga("sim-order", version=1, deadline=seconds(9)).then(RESERVE).then(PLACE).then(FILL).then(SETTLE)

LEFT = step(
    "left", on=Asked, emits=Left, compensate=Unleft, compensated=LeftUndone, timeout=LIMIT, retry=QUICK,
    compensation_retry=QUICK,
)  # fmt: skip

RIGHT = step(
    "right", on=Asked, emits=Right, rejects=RightRefused, compensate=Unright, compensated=RightUndone,
    timeout=LIMIT, retry=QUICK, compensation_retry=DOGGED,
)  # fmt: skip

MERGE = step("merge", on=(Left, Right), emits=Merged, rejects=MergeRefused, timeout=LIMIT, retry=QUICK)

PAIR = saga("sim-pair", version=1, deadline=seconds(9)).then(LEFT).also(RIGHT).also(MERGE)


def misbehave(ctx: StepContext, far: FarSide, name: str) -> None:
    """Raise `PlannedError` if this attempt at a step or compensation is planned to fail."""
    planned = ctx.get(Asked).plan.get(name, "")
    retried = planned in {"once", "twice"} and ctx.attempt <= ("once", "twice").index(planned) + 1
    if retried or planned == "stuck" or (planned == "shut" and not far.opened):
        raise PlannedError(planned)


def _refusal(ctx: StepContext, bound: AnyStep) -> Event | None:
    """Return the refusal of a step that is planned to refuse."""
    refuses = ctx.get(Asked).plan.get(bound.name) == "refuse"
    return bound.rejects() if refuses and bound.rejects is not None else None


def _bind_local(service: Participant, far: FarSide, bound: AnyStep) -> None:
    """Bind a local step; an attempt that fails does so after its effect, which is rolled back."""

    @service.handles(bound)
    async def run(_event: Any, ctx: StepContext) -> Any:
        if (refusal := _refusal(ctx, bound)) is not None:
            return refusal
        await take_effect(ctx)
        misbehave(ctx, far, bound.name)
        return bound.emits()


def _bind_local_compensation(service: Participant, far: FarSide, bound: _Compensatable) -> None:
    @service.compensates(bound)
    async def compensate(_command: Any, ctx: StepContext) -> Any:
        await take_effect(ctx)
        misbehave(ctx, far, f"un{bound.name}")
        return bound.compensated()


def _bind_remote(
    service: Participant,
    far: FarSide,
    bound: _Compensatable,
    then: Callable[[StepContext, RemoteEffect], None] = lambda _ctx, _effect: None,
) -> None:
    """Bind a remote step; a new effect at the far side is passed to `then`."""

    @service.calls(bound)
    async def call(_event: Any, ctx: StepContext) -> Any:
        misbehave(ctx, far, bound.name)
        if (refusal := _refusal(ctx, bound)) is not None:
            return refusal
        await far.place(ctx, partial(then, ctx))
        return bound.emits()

    @service.queries(bound)
    async def find(_event: Any, ctx: StepContext) -> Any:
        return bound.emits() if await far.find(ctx.key) is not None else None

    @service.compensates_remotely(bound)
    async def compensate(_command: Any, ctx: StepContext) -> Any:
        misbehave(ctx, far, f"un{bound.name}")
        await far.undo(ctx)
        return bound.compensated()


def order_participants(far: FarSide, report: Report) -> Sequence[Participant]:
    """Bind the steps of the order, all in one service."""

    def accept(ctx: StepContext, effect: RemoteEffect) -> None:
        """End a new order as planned: with a report, without one, in a race with its cancellation, or never."""
        planned, key = ctx.get(Asked).plan.get("fill", ""), ctx.key

        def end() -> None:
            for fact in _reported(far.close(key, "lost" if planned == "lose" else "filled")):
                report(effect.saga_id, fact)

        match planned:
            case "silent":
                far.later(lambda: far.close(key, "filled"))
            case "race":
                effect.races = True
            case "never":
                return
            case _:
                far.later(end)

    desk = Participant("desk", ORDER)
    _bind_local(desk, far, RESERVE)
    _bind_local_compensation(desk, far, RESERVE)
    _bind_remote(desk, far, PLACE, accept)
    _bind_fill(desk, far)
    _bind_local(desk, far, SETTLE)
    return [desk]


def _bind_fill(desk: Participant, far: FarSide) -> None:
    @desk.correlates(FILL)
    def correlate(report: Reported) -> str:
        return report.report_id

    @desk.concludes(FILL)
    def conclude(reports: Sequence[Reported], _ctx: StepContext) -> Filled | Unfilled | None:
        states = {report.state for report in reports}
        if "filled" in states:
            return Filled()
        return Unfilled() if states & {"lost", "cancelled"} else None

    @desk.polls(FILL)
    async def poll(ctx: StepContext) -> Sequence[Event]:
        return _reported(await far.reports(f"{ctx.saga_id}:place"))

    @desk.bars(FILL)
    async def bar(ctx: StepContext) -> Sequence[Event]:
        return _reported(await far.cancel(f"{ctx.saga_id}:place"))

    @desk.contradicts(FILL)
    def contradict(answer: Filled | Unfilled | None, report: Reported) -> str | None:
        return "filled after all" if report.state == "filled" and not isinstance(answer, Filled) else None


def _reported(reports: Sequence[tuple[str, str]]) -> list[Event]:
    return [Reported(report_id=report_id, state=state) for report_id, state in reports]


def pair_participants(far: FarSide, _report: Report) -> Sequence[Participant]:
    """Bind the steps of the pair, all in one service."""
    desk = Participant("desk", PAIR)
    _bind_local(desk, far, LEFT)
    _bind_local_compensation(desk, far, LEFT)
    _bind_remote(desk, far, RIGHT)
    _bind_local(desk, far, MERGE)
    return [desk]


def draw_order(chance: Random, number: int) -> Asked:
    """Draw a start of the order; number 0 has to be compensated."""
    if number == 0:
        plan = {"fill": chance.choice(("lose", "never")), "unreserve": chance.choice(("", "once", "shut"))}
    else:
        plan = {
            "reserve": chance.choice(("", "", "", "", "refuse", "once", "stuck")),
            "place": chance.choice(("", "", "", "", "refuse", "twice")),
            "fill": chance.choice(("", "", "", "", "silent", "lose", "never", "race", "race")),
            "settle": chance.choice(("", "", "", "once", "shut", "stuck")),
            "unreserve": chance.choice(("", "", "", "once", "shut", "stuck")),
            "unplace": chance.choice(("", "", "twice")),
        }
    return Asked(idempotency_key=str(number), account="alice", plan={k: v for k, v in plan.items() if v})


def draw_pair(chance: Random, number: int) -> Asked:
    """Draw a start of the pair; number 0 has to be compensated."""
    if number == 0:
        plan = {
            "merge": "refuse",
            "unleft": chance.choice(("", "once", "shut")),
            "unright": chance.choice(("", "once")),
        }
    else:
        plan = {
            "left": chance.choice(("", "", "", "", "once", "stuck")),
            "right": chance.choice(("", "", "", "", "refuse", "twice")),
            "merge": chance.choice(("", "", "", "refuse", "once")),
            "unleft": chance.choice(("", "", "", "once", "shut", "stuck")),
            "unright": chance.choice(("", "", "twice")),
        }
    return Asked(idempotency_key=str(number), account="bob", plan={k: v for k, v in plan.items() if v})


def is_stuck(start: Event) -> bool:
    """Return whether the plan has a failure that cannot be repaired: of a compensation, or after the pivot."""
    plan: dict[str, str] = getattr(start, "plan", {})
    return any(plan.get(name) == "stuck" for name in ("unreserve", "unleft", "settle"))


order = SimulatedSaga(ORDER, order_participants, draw_order, is_stuck)

pair = SimulatedSaga(PAIR, pair_participants, draw_pair, is_stuck)
