"""Two small sagas for the simulation: an order with a step of each kind, and a pair of branches that join."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from uuid import UUID

from pydantic import Field

from tradesaga.consumers.participant import Participant, StepContext
from tradesaga.consumers.testing.simulation.database import Statement
from tradesaga.consumers.testing.simulation.effects import FarSide, RemoteEffect, take_effect
from tradesaga.sagas.definition import AnySaga, saga, seconds
from tradesaga.sagas.step import Retry, step
from tradesaga.schemas.messages.message import Compensation, Event

Report = Callable[[UUID, Event], None]
"""Publishes an outside fact of a saga, as a feed would."""


@dataclass(frozen=True)
class SimulatedSaga:
    """A saga under simulation.

    `participants` binds handlers for one simulated world: local ones call `take_effect`, or SQL of their own for which
    `statements` has a function; remote ones call the far side. `start` draws a start: its number within the schedule
    is 0 for one that is to be taken back, so that every schedule compensates. `stuck` says of a start that a failure
    planted in it cannot be mended, so that FAILED is its right end.
    """

    saga: AnySaga
    participants: Callable[[FarSide, Report], Sequence[Participant]]
    start: Callable[[Random, int], Event]
    stuck: Callable[[Event], bool] = lambda _: False
    statements: Mapping[str, Statement] = field(default_factory=dict[str, Statement])
    partitions: int = 2


class Asked(Event):
    """The start; `plan` says how each step is to fare."""

    idempotency_key: str
    account: str
    plan: dict[str, str] = Field(default_factory=dict[str, str])


class Reserved(Event):
    """Money is set aside."""


class ReserveRefused(Event):
    """There is not enough."""


class Unreserve(Compensation):
    """Return the seat."""


class Unreserved(Event):
    """It is given back."""


class Placed(Event):
    """The far side has the order."""


class PlaceRefused(Event):
    """It does not want it."""


class Unplace(Compensation):
    """Withdraw the order."""


class Unplaced(Event):
    """It is withdrawn."""


class Reported(Event):
    """The far side says what became of the order."""

    report_id: str
    state: str


class Filled(Event):
    """The order is filled: there is no way back."""


class Unfilled(Event):
    """It will not be."""


class Settled(Event):
    """All is paid."""


class Left(Event):
    """The local branch is done."""


class Unleft(Compensation):
    """Compensate the step."""


class LeftUndone(Event):
    """It is taken back."""


class Right(Event):
    """The remote branch is done."""


class RightRefused(Event):
    """The far side does not want it."""


class Unright(Compensation):
    """Compensate the step."""


class RightUndone(Event):
    """It is taken back."""


class Merged(Event):
    """Both branches are joined."""


class MergeRefused(Event):
    """They do not fit."""


QUICK: Final = Retry(attempts=3, initial=0.05, maximum=0.4)

DOGGED: Final = Retry(attempts=12, initial=0.05, maximum=1.0)

LIMIT: Final = seconds(1)


class PlannedError(Exception):
    """An attempt fails because the plan says so."""


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


def misbehave(ctx: StepContext, far: FarSide, step: str) -> str:
    """Return the word that the plan has for a step; raises `PlannedError` where this attempt is to fail."""
    word = ctx.get(Asked).plan.get(step, "")
    if word in {"once", "twice"} and ctx.attempt <= ("once", "twice").index(word) + 1:
        raise PlannedError(word)
    if word == "stuck" or (word == "shut" and not far.opened):
        raise PlannedError(word)
    return word


def order_participants(far: FarSide, report: Report) -> Sequence[Participant]:
    """Bind the order's steps, all in one service."""
    desk = Participant("desk", ORDER)
    _bind_reserve(desk, far)
    _bind_place(desk, far, report)
    _bind_fill(desk, far)

    @desk.handles(SETTLE)
    async def settle(_event: Filled, ctx: StepContext) -> Settled:
        await take_effect(ctx)
        misbehave(ctx, far, "settle")
        return Settled()

    return [desk]


def _bind_reserve(desk: Participant, far: FarSide) -> None:
    @desk.handles(RESERVE)
    async def reserve(_event: Asked, ctx: StepContext) -> Reserved | ReserveRefused:
        word = misbehave(ctx, far, "reserve")
        if word == "refuse":
            return ReserveRefused()
        await take_effect(ctx)
        return Reserved()

    @desk.compensates(RESERVE)
    async def unreserve(_command: Unreserve, ctx: StepContext) -> Unreserved:
        await take_effect(ctx)
        misbehave(ctx, far, "unreserve")
        return Unreserved()


def _bind_place(desk: Participant, far: FarSide, report: Report) -> None:
    @desk.calls(PLACE)
    async def place(_event: Reserved, ctx: StepContext) -> Placed | PlaceRefused:
        if misbehave(ctx, far, "place") == "refuse":
            return PlaceRefused()
        fate = ctx.get(Asked).plan.get("fill", "")
        await far.place(ctx, lambda order: _accept(far, report, order, fate))
        return Placed()

    @desk.queries(PLACE)
    async def find(_event: Reserved, ctx: StepContext) -> Placed | None:
        return Placed() if await far.find(ctx.key) is not None else None

    @desk.compensates_remotely(PLACE)
    async def unplace(_command: Unplace, ctx: StepContext) -> Unplaced:
        misbehave(ctx, far, "unplace")
        await far.undo(ctx)
        return Unplaced()


def _accept(far: FarSide, report: Report, order: RemoteEffect, word: str) -> None:
    """End a new order as planned: with a report, without one, in a race, or never."""
    key = f"{order.saga_id}:place"

    def tell() -> None:
        for report_id, state in _end(far, key, word):
            report(order.saga_id, Reported(report_id=report_id, state=state))

    match word:
        case "silent":
            far.later(lambda: far.close(key, "filled"))
        case "race":
            order.races = True
        case "never":
            return
        case _:
            far.later(tell)


def _end(far: FarSide, key: str, word: str) -> Sequence[tuple[str, str]]:
    return far.close(key, "lost" if word == "lose" else "filled")


def _bind_fill(desk: Participant, far: FarSide) -> None:
    @desk.correlates(FILL)
    def correlate(said: Reported) -> str:
        return said.report_id

    @desk.concludes(FILL)
    def conclude(reports: Sequence[Reported], _ctx: StepContext) -> Filled | Unfilled | None:
        states = {said.state for said in reports}
        if "filled" in states:
            return Filled()
        return Unfilled() if states & {"lost", "cancelled"} else None

    @desk.polls(FILL)
    async def poll(ctx: StepContext) -> Sequence[Event]:
        return _told(await far.reports(f"{ctx.saga_id}:place"))

    @desk.bars(FILL)
    async def bar(ctx: StepContext) -> Sequence[Event]:
        return _told(await far.cancel(f"{ctx.saga_id}:place"))

    @desk.contradicts(FILL)
    def contradict(answer: Filled | Unfilled | None, said: Reported) -> str | None:
        return "filled after all" if said.state == "filled" and not isinstance(answer, Filled) else None


def _told(reports: Sequence[tuple[str, str]]) -> list[Event]:
    return [Reported(report_id=report_id, state=state) for report_id, state in reports]


def pair_participants(far: FarSide, _report: Report) -> Sequence[Participant]:
    """Bind the pair's steps, all in one service."""
    desk = Participant("desk", PAIR)
    _bind_left(desk, far)
    _bind_right(desk, far)

    @desk.handles(MERGE)
    async def merge(_event: Any, ctx: StepContext) -> Merged | MergeRefused:
        if misbehave(ctx, far, "merge") == "refuse":
            return MergeRefused()
        await take_effect(ctx)
        return Merged()

    return [desk]


def _bind_left(desk: Participant, far: FarSide) -> None:
    @desk.handles(LEFT)
    async def left(_event: Asked, ctx: StepContext) -> Left:
        await take_effect(ctx)
        misbehave(ctx, far, "left")
        return Left()

    @desk.compensates(LEFT)
    async def unleft(_command: Unleft, ctx: StepContext) -> LeftUndone:
        misbehave(ctx, far, "unleft")
        await take_effect(ctx)
        return LeftUndone()


def _bind_right(desk: Participant, far: FarSide) -> None:
    @desk.calls(RIGHT)
    async def right(_event: Asked, ctx: StepContext) -> Right | RightRefused:
        if misbehave(ctx, far, "right") == "refuse":
            return RightRefused()
        await far.place(ctx)
        return Right()

    @desk.queries(RIGHT)
    async def find(_event: Asked, ctx: StepContext) -> Right | None:
        return Right() if await far.find(ctx.key) is not None else None

    @desk.compensates_remotely(RIGHT)
    async def unright(_command: Unright, ctx: StepContext) -> RightUndone:
        misbehave(ctx, far, "unright")
        await far.undo(ctx)
        return RightUndone()


def draw_order(chance: Random, number: int) -> Asked:
    """Draw a start of the order; the first one ends by being taken back."""
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
    """Draw a start of the pair; the first one ends by being taken back."""
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
    """Return whether the plan holds a failure that nobody can mend: of a compensation, or past the pivot."""
    plan: dict[str, str] = getattr(start, "plan", {})
    return any(plan.get(name) == "stuck" for name in ("unreserve", "unleft", "settle"))


order = SimulatedSaga(ORDER, order_participants, draw_order, is_stuck)

pair = SimulatedSaga(PAIR, pair_participants, draw_pair, is_stuck)
