"""A saga that forks and joins: one event starts two steps, whose answers a fourth waits for."""

from dataclasses import dataclass
from typing import Any

from tests.e2e import messages as m
from tests.e2e.far import FarSide
from tests.e2e.plan import misbehave, planned, record
from tests.e2e.steps import QUICK
from tradesaga.consumers.participant import Participant, StepContext
from tradesaga.sagas.definition import Saga, saga, seconds
from tradesaga.sagas.step import step

LIMIT = seconds(0.5)
begin = step(
    "begin", on=m.Asked, emits=m.Opened, compensate=m.Unopen, compensated=m.Unopened, timeout=LIMIT, retry=QUICK
)
left = step(
    "left", on=m.Opened, emits=m.Left, compensate=m.UndoLeft, compensated=m.LeftUndone, timeout=LIMIT, retry=QUICK
)
right = step(
    "right", on=m.Opened, emits=m.Right, compensate=m.UndoRight, compensated=m.RightUndone, timeout=LIMIT, retry=QUICK
)
meet = step("meet", on=(m.Left, m.Right), emits=m.Met, rejects=m.Parted, timeout=LIMIT, retry=QUICK)


@dataclass(frozen=True)
class Fork:
    """The saga and its participants: one for each branch, so that either may be late, and one for both ends."""

    saga: Saga[Any]
    ends: Participant
    left: Participant
    right: Participant


def make_fork(name: str, far: FarSide) -> Fork:
    """Define the saga under a name of the test's own."""
    whole: Saga[Any] = saga(name, version=1, deadline=seconds(60)).then(begin).also(left).also(right).also(meet)
    fork = Fork(whole, Participant("ends", whole), Participant("left", whole), Participant("right", whole))
    _bind_ends(fork.ends, far)
    _bind_left(fork.left)
    _bind_right(fork.right)
    return fork


def _bind_ends(ends: Participant, far: FarSide) -> None:
    @ends.handles(begin)
    async def do_begin(event: m.Asked, ctx: StepContext) -> m.Opened:
        return m.Opened(number="1")

    @ends.compensates(begin)
    async def undo_begin(command: m.Unopen, ctx: StepContext) -> m.Unopened:
        return m.Unopened()

    @ends.handles(meet)
    async def do_meet(event: m.Left | m.Right, ctx: StepContext) -> m.Met | m.Parted:
        await far.note(ctx.saga_id, "meet", "forward", ctx.attempt)
        assert ctx.sql is not None
        await record(ctx.sql, ctx, "meet")
        word = planned(ctx, "meet")
        await misbehave(word, ctx.sql)
        if word == "refuse":
            return m.Parted(reason="planned")
        return m.Met(seen=[ctx.get(m.Left).side, ctx.get(m.Right).side])


def _bind_left(participant: Participant) -> None:
    @participant.handles(left)
    async def do_left(event: m.Opened, ctx: StepContext) -> m.Left:
        await misbehave(planned(ctx, "left"), ctx.sql)
        return m.Left()

    @participant.compensates(left)
    async def undo_left(command: m.UndoLeft, ctx: StepContext) -> m.LeftUndone:
        return m.LeftUndone()


def _bind_right(participant: Participant) -> None:
    @participant.handles(right)
    async def do_right(event: m.Opened, ctx: StepContext) -> m.Right:
        await misbehave(planned(ctx, "right"), ctx.sql)
        return m.Right()

    @participant.compensates(right)
    async def undo_right(command: m.UndoRight, ctx: StepContext) -> m.RightUndone:
        return m.RightUndone()
