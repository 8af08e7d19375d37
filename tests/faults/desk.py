"""The local steps: money moves between accounts, holds and effects, in the batch's transaction.

Nothing in these tables keeps an effect from happening twice: that is what the run is to show of the product.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from uuid import UUID

from tests.faults import messages as m
from tests.faults.saga import Drill
from tradesaga.consumers.participant import CompensationImpossibleError, Participant, StepContext, Work
from tradesaga.infra.postgres.database import Connection

TABLES: Final = """
CREATE TABLE drill_account (account text PRIMARY KEY, free numeric NOT NULL);
CREATE TABLE drill_hold (saga_id uuid NOT NULL, amount numeric NOT NULL);
CREATE INDEX ON drill_hold (saga_id);
CREATE TABLE drill_effect (id bigserial PRIMARY KEY, saga_id uuid NOT NULL, step text NOT NULL,
    direction text NOT NULL, amount numeric NOT NULL);
"""
FEE: Final = Decimal(1)
_LOCK: Final = "SELECT FROM drill_account WHERE account = ANY($1::text[]) ORDER BY account FOR UPDATE"
_MOVE: Final = """
UPDATE drill_account a SET free = free + t.amount
FROM (SELECT account, sum(amount) AS amount FROM unnest($1::text[], $2::numeric[]) AS u (account, amount) GROUP BY 1) t
WHERE a.account = t.account
"""
_EFFECT: Final = """
INSERT INTO drill_effect (saga_id, step, direction, amount)
SELECT saga_id, $2, $3, amount FROM unnest($1::uuid[], $4::numeric[]) AS u (saga_id, amount)
"""


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
        willing = [work for work in works if work.event.plan.get("reserve") != "refuse"]
        accounts = [work.event.account for work in willing]
        amounts = [work.event.amount for work in willing]
        sagas = [work.saga_id for work in willing]
        await _move(sql, accounts, [-amount for amount in amounts])
        await sql.execute("INSERT INTO drill_hold SELECT * FROM unnest($1::uuid[], $2::numeric[])", sagas, amounts)
        await _note(sql, sagas, "reserve", "forward", amounts)
        return [
            m.ReserveRefused(reason="planned")
            if work.event.plan.get("reserve") == "refuse"
            else m.Reserved(amount=str(work.event.amount))
            for work in works
        ]

    @desk.compensates_batch(drill.reserve)
    async def release(works: Sequence[Work[m.Release]], sql: Connection) -> Sequence[m.Released]:
        sagas = [work.saga_id for work in works]
        amounts = await _drop_holds(sql, sagas)
        await _move(sql, [work.ctx.get(m.Asked).account for work in works], amounts)
        await _note(sql, sagas, "reserve", "back", amounts)
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
    @desk.handles_batch(drill.settle)
    async def settle(works: Sequence[Work[m.Filled]], sql: Connection) -> Sequence[m.Settled]:
        if any(work.ctx.get(m.Asked).plan.get("settle") == "fail" for work in works):
            raise PlannedError("as planned")
        sagas = [work.saga_id for work in works]
        amounts = await _drop_holds(sql, sagas)
        await _note(sql, sagas, "settle", "forward", amounts)
        return [m.Settled(amount=str(amount)) for amount in amounts]


async def _charge(sql: Connection, ctx: StepContext, fee: Decimal, direction: str) -> None:
    """Move the fee out of the hold, or back into it."""
    await sql.execute("UPDATE drill_hold SET amount = amount + $2 WHERE saga_id = $1", ctx.saga_id, -fee)
    await _note(sql, [ctx.saga_id], "charge", direction, [fee])


async def _move(sql: Connection, accounts: Sequence[str], amounts: Sequence[Decimal]) -> None:
    """Change what is free, all accounts at once, locked in the order of their names."""
    await sql.execute(_LOCK, list(accounts))
    await sql.execute(_MOVE, list(accounts), list(amounts))


async def _note(sql: Connection, sagas: Sequence[UUID], step: str, direction: str, amounts: Sequence[Decimal]) -> None:
    await sql.execute(_EFFECT, list(sagas), step, direction, list(amounts))


async def _drop_holds(sql: Connection, sagas: Sequence[UUID]) -> list[Decimal]:
    """Give up the holds of sagas, and say what each held."""
    held: dict[UUID, Decimal] = {}
    for row in await sql.fetch("DELETE FROM drill_hold WHERE saga_id = ANY($1::uuid[]) RETURNING *", list(sagas)):
        held[row["saga_id"]] = held.get(row["saga_id"], Decimal(0)) + row["amount"]
    return [held.get(saga_id, Decimal(0)) for saga_id in sagas]


def _sql(ctx: StepContext) -> Connection:
    if ctx.sql is None:
        raise RuntimeError(f"{ctx.step} is a local step and has no transaction")
    return ctx.sql
