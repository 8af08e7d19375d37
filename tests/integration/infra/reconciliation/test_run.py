"""Reconciliation over a real database and a venue in memory: a whole trade agrees, and each source spoilt is found."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import TypeVar
from uuid import UUID, uuid4

import orjson
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from tests.book import balances, context, open_book, order, proved, work
from tests.integration.infra.venues.simulated_venue import SimulatedVenue
from tradesaga.consumers.context import Work
from tradesaga.consumers.services import cash, risk, settlement
from tradesaga.consumers.services.execution import Desk, conclude
from tradesaga.infra.postgres.database import Session, session
from tradesaga.infra.reconciliation.run import reconcile, reconcile_at_start, record_opening_stock
from tradesaga.infra.settings import Settings
from tradesaga.sagas.trade.comparison import Flaw
from tradesaga.sagas.trade.venue import NewOrder, VenueUnavailable
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.message import Event

pytestmark = pytest.mark.stack
D = Decimal
FUTURE = 4 * 10**18
E = TypeVar("E", bound=Event)


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Session]:
    """Give a session on a book with one account: 1000 USD, 500 EUR."""
    async with session(database_url) as connection:
        await open_book(connection)
        yield connection


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Give settings that name this database."""
    return Settings(database_url=SecretStr(database_url))


@pytest.fixture
async def venue(settings: Settings, sql: Session) -> SimulatedVenue:
    """Give a venue whose holdings are written down, with some trading of somebody else's before that."""
    made = SimulatedVenue({"EUR/USD": [D("1.1")] * 9}, {"USD": D(10**6), "EUR": D(10**6)})
    assert await record_opening_stock(made, settings)
    assert not await record_opening_stock(made, settings)
    return made


async def trade(sql: Session, venue: SimulatedVenue, request: t.TradeRequested, *, settled: bool = True) -> UUID:
    """Take one order through every participant, and write its saga as the saga log would."""
    saga_id, facts = uuid4(), list[Event]([request])
    facts += await risk.validate([work("validate_order", request, facts, saga_id)], sql)
    validated = [work("reserve_funds", _last(facts, t.OrderValidated), facts, saga_id)]
    facts += await cash.reserve(await proved(sql, validated), sql)
    reserved = [work("check_risk", _last(facts, t.FundsReserved), facts, saga_id)]
    facts += await risk.check(await proved(sql, reserved), sql)
    desk, ctx = Desk(venue, "paper"), context("place_order", facts, saga_id, FUTURE)
    accepted = _last(facts, t.RiskAccepted)
    await proved(sql, [Work(accepted, ctx)])
    facts.append(await desk.place(accepted, ctx))
    filled = conclude(await desk.poll(ctx), ctx)
    assert isinstance(filled, t.TradeFilled)
    facts.append(filled)
    if settled:
        done = [work("settle_trade", filled, facts, saga_id)]
        facts += await settlement.settle_fills(await proved(sql, done), sql)
        await _write_saga(sql, saga_id, "COMPLETED", facts)
    return saga_id


def _last(facts: list[Event], kind: type[E]) -> E:
    found = facts[-1]
    assert isinstance(found, kind), found
    return found


async def _write_saga(sql: Session, saga_id: UUID, state: str, facts: list[Event]) -> None:
    names = {fact.NAME: orjson.loads(fact.to_wire()) for fact in facts}
    await sql.execute(
        "INSERT INTO saga (saga_id, name, version, lane, state, current_step_index, completed_steps, compensated_steps,"
        " context, progress, seq, head, request_hash, created_at, updated_at)"
        " VALUES ($1, 'trade', 1, 1, $2, 6, '[]', '[]', $3, '', 1, '', '', now(), now())",
        saga_id, state, orjson.dumps(names).decode(),
    )  # fmt: skip


async def found(venue: SimulatedVenue, settings: Settings) -> list[Flaw]:
    """Name what a reconciliation finds."""
    findings = await reconcile(venue, settings)
    assert findings.balances_checked
    assert findings.as_json()["agree"] is (not findings.discrepancies)
    return [each.flaw for each in findings.discrepancies]


async def test_whole_trades_agree(sql: Session, venue: SimulatedVenue, settings: Settings) -> None:
    """After a buy and a sell, settled and not settled, everything adds up, at the venue too."""
    await trade(sql, venue, order(price=None))
    await trade(sql, venue, order(t.Side.SELL, 50, price=None))
    await trade(sql, venue, order(quantity=10, price="1.2"), settled=False)
    assert await found(venue, settings) == []


@pytest.mark.parametrize(
    ("spoil", "flaws"),
    [
        ("UPDATE ledger_account SET balance = balance + 1 WHERE (owner, kind, asset) = ('alice', 'available', 'USD')",
         {Flaw.LEDGER_NOT_ZERO, Flaw.BALANCE_DIFFERS}),
        ("UPDATE risk_exposure SET open_orders = 1", {Flaw.EXPOSURE_DIFFERS}),
        ("UPDATE order_register SET status = 'COUNTED'", {Flaw.REGISTER_DIFFERS, Flaw.EXPOSURE_DIFFERS}),
        ("DELETE FROM order_register", {Flaw.REGISTER_DIFFERS, Flaw.ORDER_WITHOUT_SAGA}),
        ("UPDATE saga SET state = 'ABORTED'", {Flaw.REGISTER_DIFFERS, Flaw.FILL_NOT_BOOKED}),
        ("UPDATE saga SET context = replace(context::text, '\"quantity\":\"100\"', '\"quantity\":\"99\"')::json",
         {Flaw.FILL_DIFFERS}),
    ],
)  # fmt: skip
async def test_a_spoilt_database_is_found(
    sql: Session, venue: SimulatedVenue, settings: Settings, spoil: str, flaws: set[Flaw]
) -> None:
    """Whatever is changed behind the services' back is named."""
    await trade(sql, venue, order(price=None))
    await sql.execute(spoil)
    assert set(await found(venue, settings)) == flaws


async def test_strange_trades_at_the_venue_are_found(sql: Session, venue: SimulatedVenue, settings: Settings) -> None:
    """Somebody else's order on the account, an order of ours without a saga, and a bust are all seen."""
    saga_id = await trade(sql, venue, order(price=None))
    report = (await venue.orders_since("EUR/USD"))[0]
    for name, flaw in (("web_1", Flaw.FOREIGN_ORDER), (f"ts{uuid4().hex}", Flaw.ORDER_WITHOUT_SAGA)):
        await venue.place(NewOrder(name, "EUR/USD", t.Side.BUY, t.OrderType.LIMIT, D(10), FUTURE, D("1.2")))
        assert {flaw, Flaw.VENUE_BALANCE_DIFFERS} <= set(await found(venue, settings))
    trades = await venue.trades_since("EUR/USD")
    venue.bust(next(one.fill.trade_id for one in trades if one.venue_order_id == report.venue_order_id))
    findings = await reconcile(venue, settings)
    assert str(saga_id) in {each.subject for each in findings.discrepancies if each.flaw is Flaw.FILL_DIFFERS}


async def test_starting_execution_counts_what_is_wrong(sql: Session, venue: SimulatedVenue, settings: Settings) -> None:
    """The start-up reconciliation sets a gauge for each kind of flaw."""
    await trade(sql, venue, order(price=None))
    await sql.execute("UPDATE risk_exposure SET open_orders = 1")
    await reconcile_at_start(venue, settings)

    def gauge(flaw: Flaw) -> float | None:
        return REGISTRY.get_sample_value("tradesaga_discrepancies", {"venue": "paper", "flaw": flaw})

    assert gauge(Flaw.EXPOSURE_DIFFERS) == 1
    assert gauge(Flaw.FOREIGN_ORDER) == 0


async def test_a_venue_that_is_away_keeps_nothing_from_starting(
    sql: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the venue nothing is written down and nothing is raised; the next start tries again."""
    away = SimulatedVenue({"EUR/USD": [D("1.1")]}, {"USD": D(5)})

    async def fail() -> None:
        raise VenueUnavailable("outage")

    monkeypatch.setattr(away, "balances", fail)
    before = await balances(sql)
    await reconcile_at_start(away, settings)
    assert await balances(sql) == before
