"""Forged records in every order: whatever is written between the steps of genuine trades, the ledger stays true."""

from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from random import Random
from uuid import UUID, uuid4

import pytest

from infra.database import session
from schemas import lifecycle
from schemas import trade as t
from schemas.message import Command, Compensation, Event, Message
from tests.book import order
from tests.integration.test_forged_records import FILLED, context, greedy
from tests.integration.trade_rig import LETTERS, OPENING, TradeRig, trade_rig

pytestmark = pytest.mark.stack
SEEDS = range(12)
ACTIONS = 60
SERVICES = ("risk", "cash", "execution", "settlement", "log")
STEPS = ("validate_order", "reserve_funds", "check_risk", "place_order", "confirm_fill", "settle_trade")
_UNFORGED = {Message, Event, Command, Compensation, lifecycle.OperatorFact, t.VenueFill}
"""Bases and parts, of which there are no records."""


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[TradeRig]:
    """Give a rig on a database of its own."""
    async with session(database_url) as sql, trade_rig(sql) as made:
        yield made


def forgeries(saga_id: UUID, step: str) -> Sequence[Message]:
    """Write a record of each type, with values that would enrich whoever they are about."""
    who = {"operator": "eve", "reason": "x"}
    return (
        *greedy(saga_id),
        order(account="bob", quantity=500),
        t.ValidationRejected(code="x", reason="x"), t.FundsRejected(code="x", reason="x"),
        t.RiskRejected(code="x", reason="x"), t.OrderRejected(code="x", reason="x"), t.TradeUnfilled(status="expired"),
        t.TradeSettled(quantity=Decimal(1), quote_amount=Decimal(1), fee=Decimal(0), released=Decimal(10**6)),
        t.OrderWithdrawn(), t.FundsReleased(asset="USD", amount=Decimal(10**6)), t.RiskReleased(exposure=Decimal(0)),
        t.OrderCancelled(client_order_id="x"),
        t.TradeFilledV1(
            quantity=FILLED.quantity, quote_amount=FILLED.quote_amount, fee=FILLED.fee, fee_asset="USD",
            venue_trade_ids=("1",), complete=True,
        ),
        lifecycle.AttemptFailed(step=step, direction="forward", attempt=1, reason="x"),
        lifecycle.StepFailed(step=step, attempts=1, reason="x"),
        lifecycle.StepUnknown(step=step, attempt=1, reason="x"),
        lifecycle.StepBarred(step=step), lifecycle.StepContradicted(step=step, venue_id="1", reason="x"),
        lifecycle.CompensationFailed(step=step, attempts=1, reason="x"),
        lifecycle.DeadlineElapsed(deadline="2026-01-01T00:00:00Z"),
        lifecycle.StartRefused(idempotency_key="x", request_hash="x", reason="x"),
        lifecycle.RetryRequested(step=step, **who), lifecycle.AbortRequested(**who),
        lifecycle.SkipRequested(step=step, **who), lifecycle.ResolveRequested(outcome="COMPLETED", **who),
        lifecycle.ParkReleased(topic="trade.events", partition=0, offset=0, action="retry", **who),
        lifecycle.Bar(step=step), lifecycle.Retry(step=step, round=2),
    )  # fmt: skip


def test_every_type_of_record_is_forged() -> None:
    """Each class of message of the trade and of the lifecycle has a forgery."""
    classes = {
        each
        for module in (t, lifecycle)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Message)
    }
    assert classes - _UNFORGED == {type(each) for each in forgeries(uuid4(), "check_risk")}


def forge(rig: TradeRig, chance: Random, saga_id: UUID) -> None:
    """Put any three records about a saga on the topics, with its account in their context or another."""
    step = chance.choice(STEPS)
    about = order(account=chance.choice(("alice", "bob")), quantity=500)
    for message in chance.sample(forgeries(saga_id, step), 3):
        given = chance.choice((None, b"", context(about)))
        rig.forge(saga_id, message, given, step=step, round=chance.choice((0, 1, 2)))


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_order_of_forged_and_genuine_records_moves_money(rig: TradeRig, seed: int) -> None:
    """Trades start, services read some of what there is, the venue trades; between these, anybody writes anything."""
    chance = Random(seed)
    sagas: list[UUID] = []
    forged = 0
    for _ in range(ACTIONS):
        match chance.choice(("start", "deliver", "deliver", "deliver", "forge", "forge", "feed", "venue")):
            case "start":
                account, price = chance.choice(("alice", "bob")), chance.choice(("1.0", "1.06"))
                side = chance.choice((t.Side.BUY, t.Side.SELL))
                sagas.append(await rig.start(order(side, quantity=20, price=price, account=account)))
            case "deliver":
                await rig.deliver(chance.choice(SERVICES), chance.choice((1, 3, None)))
            case "feed":
                await rig.feed(chance.choice((1, None)))
            case "venue":
                rig.venue.step("EUR/USD")
            case _:
                forged += 1
                forge(rig, chance, chance.choice([*sagas, uuid4()]))
        await rig.judge(OPENING)
    await rig.settle()
    rig.venue.step("EUR/USD")
    await rig.settle()
    await rig.judge(OPENING)
    assert sagas, seed
    assert forged, seed
    letters = [each for (topic, _), log in rig.topics.items() if topic == LETTERS for each in log]
    kinds = {each.header("ts_dlt_error_type") for each in letters}
    assert b"contradiction" in kinds, seed
