"""The local steps: their effect is a row in the batch's own transaction."""

from collections.abc import Sequence

from tests.e2e import messages as m
from tests.e2e.far import FarSide
from tests.e2e.plan import PlannedError, misbehave, planned, record
from tests.e2e.steps import Steps
from tradesaga.consumers.participant import Participant, StepContext, Work
from tradesaga.infra.postgres.database import Connection
from tradesaga.schemas.amounts import format_decimal


def bind(desk: Participant, steps: Steps, far: FarSide) -> None:
    """Bind book, pay and close."""
    bind_first(desk, steps, far)
    _bind_close(desk, steps, far)


def bind_first(desk: Participant, steps: Steps, far: FarSide) -> None:
    """Bind book and pay."""
    _bind_book(desk, steps, far)
    _bind_pay(desk, steps, far)


def _bind_book(desk: Participant, steps: Steps, far: FarSide) -> None:
    @desk.handles_batch(steps.book)
    async def book(works: Sequence[Work[m.Asked]], sql: Connection) -> list[m.Booked | m.BookRefused]:
        answers: list[m.Booked | m.BookRefused] = []
        for work in works:
            word = planned(work.ctx, "book")
            await misbehave(word, sql)
            await record(sql, work.ctx, "book")
            pad = "x" * 100_000 if word == "big" else ""
            answers.append(
                m.BookRefused(reason="planned")
                if word == "refuse"
                else m.Booked(amount=format_decimal(work.event.amount), pad=pad)
            )
        return answers

    @desk.compensates_batch(steps.book)
    async def unbook(works: Sequence[Work[m.Unbook]], sql: Connection) -> list[m.Unbooked]:
        for work in works:
            await far.note(work.saga_id, "book", "back", work.ctx.attempt)
            await misbehave(planned(work.ctx, "unbook"), sql)
            await record(sql, work.ctx, "book", "back")
        return [m.Unbooked() for _ in works]


def _bind_pay(desk: Participant, steps: Steps, far: FarSide) -> None:
    @desk.handles(steps.pay)
    async def pay(event: m.Booked, ctx: StepContext) -> m.Paid | m.PayRefused:
        await far.note(ctx.saga_id, "pay", "forward", ctx.attempt)
        word, sql = planned(ctx, "pay"), ctx.sql
        assert sql is not None
        await record(sql, ctx, "pay")
        await misbehave(word, sql)
        return m.PayRefused(reason="planned") if word == "refuse" else m.Paid(amount=event.amount, attempt=ctx.attempt)

    @desk.compensates(steps.pay)
    async def refund(command: m.Refund, ctx: StepContext) -> m.Refunded:
        await far.note(ctx.saga_id, "pay", "back", ctx.attempt)
        assert ctx.sql is not None
        await record(ctx.sql, ctx, "pay", "back")
        await misbehave(planned(ctx, "unpay"), ctx.sql)
        return m.Refunded(amount=ctx.get(m.Paid).amount)


def _bind_close(desk: Participant, steps: Steps, far: FarSide) -> None:
    @desk.handles(steps.close)
    async def close(event: m.Confirmed, ctx: StepContext) -> m.Closed:
        assert ctx.sql is not None
        await far.note(ctx.saga_id, "close", "forward", ctx.attempt)
        await record(ctx.sql, ctx, "close")
        if planned(ctx, "close") == "shut" and await far.state(f"{ctx.saga_id}:open") is None:
            raise PlannedError("it is shut")
        await misbehave(planned(ctx, "close"), ctx.sql)
        return m.Closed(account=ctx.get(m.Asked).account, amount=ctx.get(m.Paid).amount, ref=ctx.get(m.Shipped).ref)
