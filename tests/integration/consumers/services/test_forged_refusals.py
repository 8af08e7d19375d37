"""Answers forged for steps at work and for steps that are done: what they hold open, a recheck ends."""

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import pytest
from pydantic import SecretStr

from tests.book import order
from tests.integration.consumers.services.rig import OPENING, TradeRig, trade_rig
from tests.integration.consumers.services.test_forged_records import FILLED, PLACED, RESERVED, VALIDATED
from tradesaga.infra.postgres.database import session
from tradesaga.infra.reconciliation.run import reconcile
from tradesaga.infra.settings import Settings
from tradesaga.sagas.trade.comparison import Flaw
from tradesaga.schemas.messages import lifecycle
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import Event

pytestmark = pytest.mark.stack
REFUSALS: list[Event] = [
    t.TradeUnfilled(status="expired"),
    lifecycle.StepFailed(step="confirm_fill", attempts=1, reason="x"),
    lifecycle.StepBarred(step="confirm_fill"),
]
OWNERS: Sequence[tuple[str, str]] = (
    ("validate_order", "risk"), ("reserve_funds", "cash"), ("check_risk", "risk"), ("place_order", "execution"),
    ("confirm_fill", "execution"),
)  # fmt: skip
"""The steps up to the pivot, in their order, and the services that own them."""
REFUSED: dict[str, Event] = {
    "validate_order": t.ValidationRejected(code="x", reason="x"),
    "reserve_funds": t.FundsRejected(code="x", reason="x"),
    "check_risk": t.RiskRejected(code="x", reason="x"),
    "place_order": t.OrderRejected(code="x", reason="x"),
    "confirm_fill": t.TradeUnfilled(status="expired"),
}
DONE: dict[str, Event] = {
    "validate_order": VALIDATED, "reserve_funds": RESERVED, "check_risk": t.RiskAccepted(exposure=FILLED.quantity),
    "place_order": PLACED, "confirm_fill": FILLED,
}  # fmt: skip
WHO = {"operator": "ann", "reason": "an answer is forged"}


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[TradeRig]:
    """Give a rig on a database of its own."""
    async with session(database_url) as sql, trade_rig(sql) as made:
        yield made


def lies(step: str) -> dict[str, Event]:
    """Return what may be forged as a step's answer."""
    failed = lifecycle.StepFailed(step=step, attempts=1, reason="x")
    barred = lifecycle.StepBarred(step=step)
    return {"refused": REFUSED[step], "failed": failed, "barred": barred, "done": DONE[step]}


async def assert_taken_back(rig: TradeRig, saga_id: UUID) -> None:
    """Hold the saga to ABORTED, with nothing set aside, nothing at the venue and no money moved."""
    assert await rig.state(saga_id) == "ABORTED"
    held = await rig.sql.fetchval(
        "SELECT coalesce(sum(amount), 0) FROM ledger_entry WHERE kind = 'held' AND saga_id = $1", saga_id
    )
    assert held == 0
    assert await rig.venue.open_orders() == []
    for account, assets in OPENING.items():
        assert await rig.wealth(account) == assets
    await rig.judge(OPENING)


@pytest.mark.parametrize("fact", REFUSALS, ids=lambda fact: fact.NAME)
async def test_the_hold_stays_as_long_as_the_order_rests(rig: TradeRig, fact: Event) -> None:
    """The saga waits in COMPENSATING with its hold and its order; a fill of the order still completes it."""
    saga_id = await rig.start(order(account="alice", price="1.06"))
    await rig.settle()
    rig.forge(saga_id, fact, step="confirm_fill")
    await rig.settle()
    assert await rig.state(saga_id) == "COMPENSATING"
    assert rig.contradictions() == ["cancel-order: 'confirm_fill' still needs it: WAITING"]
    assert len(await rig.venue.open_orders()) == 1
    await rig.judge(OPENING)
    rig.venue.step("EUR/USD")
    await rig.settle()
    assert await rig.state(saga_id) == "COMPLETED"
    await rig.judge(OPENING)


async def test_a_forged_failure_of_a_step_that_is_done_changes_nothing(rig: TradeRig) -> None:
    """What was done outweighs it: the saga goes on."""
    saga_id = await rig.start(order(account="alice", price="1.06"))
    await rig.settle()
    rig.forge(saga_id, lifecycle.StepFailed(step="check_risk", attempts=1, reason="x"), step="check_risk")
    await rig.settle()
    assert await rig.state(saga_id) == "RUNNING"
    rig.venue.step("EUR/USD")
    await rig.settle()
    assert await rig.state(saga_id) == "COMPLETED"
    await rig.judge(OPENING)


@pytest.mark.parametrize("at", range(len(OWNERS)), ids=[step for step, _ in OWNERS])
async def test_a_recheck_ends_sagas_whose_step_at_work_was_answered_for(
    rig: TradeRig, database_url: str, at: int
) -> None:
    """Each owner says what its row says: the saga is taken back, its hold released; each forged fact is named."""
    step = OWNERS[at][0]
    for fact in lies(step).values():
        saga_id = await rig.start(order(account="alice", price="1.0"))
        for _, owner in OWNERS[:at]:
            await rig.deliver(owner)
        rig.forge(saga_id, fact, step=step)
        await rig.deliver("log")
        await rig.settle()
        rig.forge(saga_id, lifecycle.RecheckRequested(**WHO), b"")
        await rig.settle()
        await assert_taken_back(rig, saga_id)
        findings = await reconcile(rig.venue, Settings(database_url=SecretStr(database_url)))
        named = [each for each in findings.discrepancies if each.flaw is Flaw.FORGED_FACT]
        assert any(fact.NAME in str(each) and str(saga_id) in str(each) for each in named), fact


@pytest.mark.parametrize("at", range(len(OWNERS)), ids=[step for step, _ in OWNERS])
async def test_a_recheck_ends_sagas_whose_done_step_was_denied(rig: TradeRig, at: int) -> None:
    """All steps up to the resting order have been done; a recheck takes them back."""
    step = OWNERS[at][0]
    for lie in ("refused", "failed", "barred"):
        saga_id = await rig.start(order(account="alice", price="1.0"))
        await rig.settle()
        rig.forge(saga_id, lies(step)[lie], step=step)
        await rig.settle()
        rig.forge(saga_id, lifecycle.RecheckRequested(**WHO), b"")
        await rig.settle()
        await assert_taken_back(rig, saga_id)


async def test_a_recheck_ends_a_saga_whose_fill_was_forged(rig: TradeRig) -> None:
    """The saga log takes it for past its pivot: it can be ended neither by a deadline nor by an abort."""
    saga_id = await rig.start(order(account="alice", price="1.0"))
    await rig.settle()
    rig.forge(saga_id, FILLED, step="confirm_fill")
    await rig.settle()
    rig.forge(saga_id, lifecycle.AbortRequested(**WHO), b"")
    await rig.settle()
    assert await rig.state(saga_id) == "RUNNING"
    rig.forge(saga_id, lifecycle.RecheckRequested(**WHO), b"")
    await rig.settle()
    await assert_taken_back(rig, saga_id)


@pytest.mark.parametrize("settled", [False, True])
async def test_a_recheck_of_a_trade_that_has_filled_completes_it(rig: TradeRig, *, settled: bool) -> None:
    """It proves past its pivot, and what was settled is settled once."""
    saga_id = await rig.start(order(account="alice", price="1.06"))
    await rig.settle()
    rig.venue.step("EUR/USD")
    if settled:
        await rig.settle()
    rig.forge(saga_id, lifecycle.StepBarred(step="confirm_fill"), step="confirm_fill")
    await rig.settle()
    rig.forge(saga_id, lifecycle.RecheckRequested(**WHO), b"")
    await rig.settle()
    assert await rig.state(saga_id) == "COMPLETED"
    assert len({each.header("ce_id") for each in rig.said(t.TradeSettled)}) == 1
    await rig.judge(OPENING)


async def test_a_recheck_ends_a_saga_of_which_everything_was_forged(rig: TradeRig) -> None:
    """Said to have been taken back, step by step, while its order rests: the saga looks ABORTED and is not."""
    saga_id = await rig.start(order(account="alice", price="1.0"))
    await rig.settle()
    said: list[tuple[Event, str]] = [
        (t.TradeUnfilled(status="expired"), "confirm_fill"), (t.OrderCancelled(client_order_id="x"), "place_order"),
        (t.RiskReleased(exposure=FILLED.quantity), "check_risk"),
        (t.FundsReleased(asset="USD", amount=FILLED.quantity), "reserve_funds"), (t.OrderWithdrawn(), "validate_order"),
    ]  # fmt: skip
    for fact, step in said:
        rig.forge(saga_id, fact, step=step)
    await rig.settle()
    assert await rig.state(saga_id) == "ABORTED"
    assert len(await rig.venue.open_orders()) == 1
    rig.forge(saga_id, lifecycle.RecheckRequested(**WHO), b"")
    await rig.settle()
    await assert_taken_back(rig, saga_id)


async def test_a_recheck_comes_after_a_lie_about_a_compensation(rig: TradeRig) -> None:
    """A failure of a round that nobody has asked for hides the genuine answer until then."""
    saga_id = await rig.start(order(account="alice", price="1.0"))
    await rig.settle()
    lie = lifecycle.CompensationFailed(step="place_order", attempts=1, reason="x")
    rig.forge(saga_id, lie, step="place_order", round=2**31 - 1)
    rig.forge(saga_id, lifecycle.AbortRequested(**WHO), b"")
    await rig.settle()
    rig.forge(saga_id, lifecycle.RecheckRequested(**WHO), b"")
    await rig.settle()
    await assert_taken_back(rig, saga_id)
