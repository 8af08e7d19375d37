"""What nobody of ours said is named: facts of the audit log with no row of a service behind them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from pydantic import SecretStr

from tests.book import order
from tests.integration.consumers.services.rig import TradeRig, trade_rig
from tests.integration.consumers.services.test_forged_records import FILLED, PLACED, RESERVED, VALIDATED
from tradesaga.consumers.audit.log.log_check import Report
from tradesaga.consumers.audit.verify.verdicts import as_json
from tradesaga.infra.postgres.database import session
from tradesaga.infra.reconciliation.facts import ForgedFact, check_facts
from tradesaga.infra.reconciliation.run import reconcile
from tradesaga.infra.settings import Settings
from tradesaga.sagas.trade.comparison import Flaw
from tradesaga.schemas.messages import lifecycle
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import Event, wire_type
from tradesaga.schemas.topics import events_topic

pytestmark = pytest.mark.stack
STEP_FACTS: list[tuple[Event, str]] = [
    (VALIDATED, ""), (t.ValidationRejected(code="x", reason="x"), ""), (RESERVED, ""),
    (t.FundsRejected(code="x", reason="x"), ""), (t.RiskAccepted(exposure=Decimal(0)), ""),
    (t.RiskRejected(code="x", reason="x"), ""), (PLACED, ""), (t.OrderRejected(code="x", reason="x"), ""), (FILLED, ""),
    (t.TradeSettled(quantity=Decimal(1), quote_amount=Decimal(1), fee=Decimal(0), released=Decimal(0)), ""),
    (t.OrderWithdrawn(), ""), (t.FundsReleased(asset="EUR", amount=Decimal(1)), ""),
    (t.RiskReleased(exposure=Decimal(0)), ""), (t.OrderCancelled(client_order_id="x"), ""),
    (lifecycle.StepFailed(step="check_risk", attempts=1, reason="x"), "check_risk"),
    (lifecycle.StepBarred(step="check_risk"), "check_risk"),
]  # fmt: skip
"""Facts of which the step's row keeps the genuine one, and the step where only a header names it."""
LOOSE: list[tuple[Event, str]] = [
    (lifecycle.AttemptFailed(step="check_risk", direction="forward", attempt=1, reason="x"), "check_risk"),
    (lifecycle.StepUnknown(step="place_order", attempt=1, reason="x"), "place_order"),
    (lifecycle.StepContradicted(step="confirm_fill", venue_id="1", reason="x"), "confirm_fill"),
    (lifecycle.CompensationFailed(step="check_risk", attempts=1, reason="x"), "check_risk"),
]
"""Facts that no row keeps, told as forged only where the step has no row."""


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[TradeRig]:
    """Give a rig on a database of its own."""
    async with session(database_url) as sql, trade_rig(sql) as made:
        yield made


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Give settings that name this database."""
    return Settings(database_url=SecretStr(database_url))


async def forged(settings: Settings) -> list[ForgedFact]:
    """Return what is told as forged."""
    return (await check_facts(settings)).forged


async def test_genuine_facts_are_not_told_as_forged(rig: TradeRig, settings: Settings) -> None:
    """Trades that complete, are refused at each step, aborted and barred, each record twice: no false alarm."""
    completed = await rig.start(order(account="alice", price="1.06"))
    refused = [
        await rig.start(order(account="alice", quantity=quantity, symbol=symbol, price="1.06"))
        for quantity, symbol in ((10**6, "EUR/USD"), (10, "XXX/USD"))
    ]
    await rig.settle()
    barred = await rig.start(order(account="bob", price="1.06"))
    await rig.deliver("risk")
    rig.forge(barred, lifecycle.AbortRequested(operator="eve", reason="x"))
    await rig.settle()
    rig.venue.step("EUR/USD")
    await rig.settle()
    assert await rig.state(completed) == "COMPLETED"
    assert {await rig.state(each) for each in (*refused, barred)} == {"ABORTED"}
    for place, log in list(rig.topics.items()):
        if place[0] == events_topic("trade"):
            for each in list(log):
                rig.put(each.topic, (each.key or b"").decode(), each.value, each.headers)
    await rig.settle()
    found = await check_facts(settings)
    assert found.forged == []
    assert found.checked > 40


@pytest.mark.parametrize(("fact", "step"), STEP_FACTS, ids=lambda each: getattr(each, "NAME", ""))
async def test_a_forged_fact_of_a_running_saga_is_named(
    rig: TradeRig, settings: Settings, fact: Event, step: str
) -> None:
    """Its type, its saga and its place are told, and that the row does not answer with it."""
    saga_id = await rig.start(order(account="alice", price="1.0"))
    await rig.settle()
    record = rig.forge(saga_id, fact, step=step)
    await rig.settle()
    [found] = await forged(settings)
    assert (found.type, found.saga_id) == (wire_type("trade", type(fact)), saga_id)
    assert (found.partition, found.offset) == (record.partition, record.offset)
    assert str(found).startswith(f"forged or foreign: {found.type} of saga {saga_id} at trade.events[")


@pytest.mark.parametrize(("fact", "step"), [*STEP_FACTS, *LOOSE], ids=lambda each: getattr(each, "NAME", ""))
async def test_a_fact_of_a_saga_that_never_ran_is_named(
    rig: TradeRig, settings: Settings, fact: Event, step: str
) -> None:
    """Nothing at all is known of the saga."""
    saga_id = uuid4()
    rig.forge(saga_id, fact, step=step)
    await rig.settle()
    [found] = await forged(settings)
    assert found.reason.startswith("there is no row of step")


async def test_a_start_that_no_door_took_is_named(rig: TradeRig, settings: Settings) -> None:
    """A start written straight to the events topic, under the id that it comes to or another."""
    rig.forge(uuid4(), order(account="alice"))
    await rig.settle()
    [found] = await forged(settings)
    assert found.reason == "no intake has stored this start"


async def test_a_genuine_fact_with_other_values_is_named(rig: TradeRig, settings: Settings) -> None:
    """A copy of a genuine record, id included, that says something else."""
    await rig.start(order(account="alice", price="1.0"))
    await rig.settle()
    [genuine] = rig.said(t.RiskAccepted)
    rig.put(
        genuine.topic, (genuine.key or b"").decode(), t.RiskAccepted(exposure=Decimal(7)).to_wire(), genuine.headers
    )
    await rig.settle()
    assert [each.type for each in await forged(settings)] == [wire_type("trade", t.RiskAccepted)]


async def test_reconcile_and_verify_name_it(rig: TradeRig, settings: Settings) -> None:
    """The one as a discrepancy, the other beside verdicts about seals, which stand; older facts are left out."""
    saga_id = await rig.start(order(account="alice", price="1.0"))
    await rig.settle()
    rig.forge(saga_id, t.RiskRejected(code="x", reason="x"))
    await rig.settle()
    findings = await reconcile(rig.venue, settings)
    named = [each for each in findings.discrepancies if each.flaw is Flaw.FORGED_FACT]
    assert [each.subject for each in named] == [str(saga_id)]
    report = Report(facts=await check_facts(settings))
    told = as_json(report)
    assert told["unaltered"]
    assert told["complete"]
    assert [each["type"] for each in told["forged_facts"]["facts"]] == [wire_type("trade", t.RiskRejected)]
    assert (await check_facts(settings, datetime.now(UTC) + timedelta(minutes=1))).checked == 0
