"""A refusal forged while its step is at work: the saga log asks to take back what the step still needs, in vain."""

from collections.abc import AsyncIterator

import pytest

from infra.database import session
from schemas import lifecycle
from schemas import trade as t
from schemas.message import Event
from tests.book import order
from tests.integration.trade_rig import OPENING, TradeRig, trade_rig

pytestmark = pytest.mark.stack
REFUSALS: list[Event] = [
    t.TradeUnfilled(status="expired"),
    lifecycle.StepFailed(step="confirm_fill", attempts=1, reason="x"),
    lifecycle.StepBarred(step="confirm_fill"),
]


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[TradeRig]:
    """Give a rig on a database of its own."""
    async with session(database_url) as sql, trade_rig(sql) as made:
        yield made


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
