"""The local steps: money moves between accounts, holds and effects, in the batch's transaction.

Nothing in these tables keeps an effect from happening twice: that is what the run is to show of the product.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from uuid import UUID

from consumers.participant import CompensationImpossibleError, Participant, StepContext, Work
from infra.database import Connection
from tests.faults import messages as m
from tests.faults.saga import Drill

TABLES: Final = """
CREATE TABLE drill_account (account text PRIMARY KEY, free numeric NOT NULL);
CREATE TABLE drill_hold (saga_id uuid NOT NULL, amount numeric NOT NULL);
CREATE INDEX ON drill_hold (saga_id);
CREATE TABLE drill_effect (id bigserial PRIMARY KEY, saga_id uuid NOT NULL, step text NOT NULL,
    direction text NOT NULL, amount numeric NOT NULL);
"""
FEE: Final = Decimal(1)
_MOVE: Final = "UPDATE drill_account SET free = free + $2 WHERE account = $1 AND free + $2 >= 0 RETURNING account"
_EFFECT: Final = "INSERT INTO drill_effect (saga_id, step, direction, amount) VALUES ($1, $2, $3, $4)"
_CHARGE: Final = "UPDATE drill_hold SET amount = amount + $2 WHERE saga_id = $1"
_DROP: Final = "DELETE FROM drill_hold WHERE saga_id = $1 RETURNING amount"


class PlannedError(Exception):
    """A handler does what the plan says: it fails."""


def make_desk(drill: Drill) -> Participant:
    """Bind the local steps."""
    desk = Participant("desk", drill.saga)
    _bind_reserve(desk, drill)
    _bind_charge(desk, drill)
    _bind_settle(desk, drill)
    return desk


def _bind_reserve(desk: Participant, drill: Drill) -> None:
    @desk.handles_batch(drill.reserve)
    async def reserve(works: Sequence[Work[m.Asked]], sql: Connection) -> Sequence[m.Reserved | m.ReserveRefused]:
        answers: dict[UUID, m.Reserved | m.ReserveRefused] = {}
        for work in sorted(works, key=lambda work: work.event.account):  # two processes lock accounts in one order
            asked = work.event
            if asked.plan.get("reserve") == "refuse":
                answers[work.saga_id] = m.ReserveRefused(reason="planned")
            elif await sql.fetchval(_MOVE, asked.account, -asked.amount) is None:
                answers[work.saga_id] = m.ReserveRefused(reason="not enough is free")
            else:
                await sql.execute("INSERT INTO drill_hold VALUES ($1, $2)", work.saga_id, asked.amount)
                await sql.execute(_EFFECT, work.saga_id, "reserve", "forward", asked.amount)
                answers[work.saga_id] = m.Reserved(amount=str(asked.amount))
        return [answers[work.saga_id] for work in works]

    @desk.compensates_batch(drill.reserve)
    async def release(works: Sequence[Work[m.Release]], sql: Connection) -> Sequence[m.Released]:
        for work in sorted(works, key=lambda work: work.ctx.get(m.Asked).account):
            amount = await _drop_hold(sql, work.saga_id)
            await sql.execute(_MOVE, work.ctx.get(m.Asked).account, amount)
            await sql.execute(_EFFECT, work.saga_id, "reserve", "back", amount)
        return [m.Released() for _ in works]


def _bind_charge(desk: Participant, drill: Drill) -> None:
    @desk.handles(drill.charge)
    async def charge(event: m.Reserved, ctx: StepContext) -> m.Charged | m.ChargeRefused:
        word = ctx.get(m.Asked).plan.get("charge")
        if word == "refuse":
            return m.ChargeRefused(reason="planned")
        if word == "fail" and ctx.attempt == 1:
            raise PlannedError("as planned")
        await _charge(_sql(ctx), ctx, FEE, "forward")
        return m.Charged(fee=str(FEE))

    @desk.compensates(drill.charge)
    async def refund(command: m.Refund, ctx: StepContext) -> m.Refunded:
        if ctx.get(m.Asked).plan.get("uncharge") == "impossible":
            raise CompensationImpossibleError("planned: the fee stays")
        await _charge(_sql(ctx), ctx, -FEE, "back")
        return m.Refunded()


def _bind_settle(desk: Participant, drill: Drill) -> None:
    @desk.handles(drill.settle)
    async def settle(event: m.Filled, ctx: StepContext) -> m.Settled:
        if ctx.get(m.Asked).plan.get("settle") == "fail":
            raise PlannedError("as planned")
        sql = _sql(ctx)
        amount = await _drop_hold(sql, ctx.saga_id)
        await sql.execute(_EFFECT, ctx.saga_id, "settle", "forward", amount)
        return m.Settled(amount=str(amount))


async def _charge(sql: Connection, ctx: StepContext, fee: Decimal, direction: str) -> None:
    """Move the fee out of the hold, or back into it."""
    await sql.execute(_CHARGE, ctx.saga_id, -fee)
    await sql.execute(_EFFECT, ctx.saga_id, "charge", direction, fee)


async def _drop_hold(sql: Connection, saga_id: UUID) -> Decimal:
    amounts = await sql.fetch(_DROP, saga_id)
    return sum((row["amount"] for row in amounts), Decimal(0))


def _sql(ctx: StepContext) -> Connection:
    if ctx.sql is None:
        raise RuntimeError(f"{ctx.step} is a local step and has no transaction")
    return ctx.sql
