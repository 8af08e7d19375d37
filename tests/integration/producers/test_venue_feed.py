"""The venue feed on a real broker and database: all of ours, nothing of others, no gap over a restart."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.integration.infra.venues.simulated_venue import SimulatedVenue
from tests.waiting import until
from tradesaga.infra.kafka.topics import ensure_topics
from tradesaga.infra.ledger.instruments import load_instruments
from tradesaga.infra.outbox.outbox_writer import OutboxWriter
from tradesaga.infra.outbox.ownership import unique_owner_name
from tradesaga.infra.postgres.database import Pool, open_pool
from tradesaga.producers.venue_feed import GROUP, follow_market, follow_reports
from tradesaga.sagas.trade.orders import client_order_id
from tradesaga.sagas.trade.venue import NewOrder, VenueUnavailable
from tradesaga.schemas.messages.trade import OrderType, Side, VenueReport
from tradesaga.schemas.topics import saga_topics

pytestmark = pytest.mark.stack
D = Decimal
FUTURE = 4 * 10**18


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """Give a pool on the test's database."""
    async with await open_pool(database_url, max_size=6) as made:
        yield made


@pytest.fixture
def venue() -> SimulatedVenue:
    """Give a venue where EUR costs 1.1."""
    return SimulatedVenue({"EUR/USD": [D("1.1"), D("1.2"), D("1.2")]}, {"USD": D(10**6), "EUR": D(10**6)})


@asynccontextmanager
async def feeding(venue: SimulatedVenue, pool: Pool, kafka: str) -> AsyncGenerator["asyncio.Task[None]"]:
    """Run the feed's reports for as long as the context is open."""
    await ensure_topics(kafka, saga_topics("trade"))
    async with OutboxWriter(pool, kafka, GROUP, "paper", 4, owner=unique_owner_name("feed"), lease=2.0) as writer:
        task = asyncio.create_task(follow_reports(venue, "paper", pool, writer))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])


async def buy(venue: SimulatedVenue, name: str, price: str = "1.2") -> None:
    """Place an order that is filled at once, or rests below the market."""
    await venue.place(NewOrder(name, "EUR/USD", Side.BUY, OrderType.LIMIT, D(10), FUTURE, D(price)))


async def published(pool: Pool) -> list[tuple[UUID, VenueReport]]:
    """Read the facts that the broker has confirmed, in order, with their keys."""
    rows = await pool.fetch(
        "SELECT aggregateid, payload FROM outbox o JOIN lane l ON l.id = o.lane WHERE o.seq <= l.published_seq"
        " ORDER BY o.created_at, o.seq"
    )
    return [(UUID(row[0]), VenueReport.from_wire(row[1])) for row in rows]


async def test_reports_of_our_orders_are_published(kafka: str, venue: SimulatedVenue, pool: Pool) -> None:
    """Acknowledged and filled, keyed by the saga; an order that somebody else placed leaves no fact."""
    saga_id = uuid4()
    async with feeding(venue, pool, kafka):
        await buy(venue, "web_1")
        await buy(venue, client_order_id(saga_id))
        await until(lambda: _count(pool, 2))
        facts = await published(pool)
    assert [(key, fact.kind) for key, fact in facts] == [(saga_id, "acknowledged"), (saga_id, "fill")]
    fill = facts[1][1].fill
    assert fill is not None
    assert (fill.quantity, fill.fee_asset) == (D(10), "USD")


async def test_a_restarted_feed_goes_on_where_it_was(kafka: str, venue: SimulatedVenue, pool: Pool) -> None:
    """What happened while no feed ran is told by the next one, and what was told is not told again."""
    first, second = uuid4(), uuid4()
    async with feeding(venue, pool, kafka):
        await buy(venue, client_order_id(first))
        await until(lambda: _count(pool, 2))
    await buy(venue, client_order_id(second))
    async with feeding(venue, pool, kafka):
        await until(lambda: _count(pool, 4))
    assert [key for key, _ in await published(pool)] == [first, first, second, second]


async def test_a_broken_stream_is_taken_up_from_the_cursor(
    kafka: str, venue: SimulatedVenue, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the venue's stream fails the feed opens it anew behind what is stored."""
    whole, cursors = venue.reports, list[str | None]()

    async def breaking(cursor: str | None = None) -> AsyncIterator[object]:
        cursors.append(cursor)
        async for report in whole(cursor):
            yield report
            if len(cursors) == 1 and report.fill is not None:
                await asyncio.sleep(0.5)
                raise VenueUnavailable("the stream broke")

    monkeypatch.setattr(venue, "reports", breaking)
    first, second = uuid4(), uuid4()
    async with feeding(venue, pool, kafka):
        await buy(venue, client_order_id(first))
        await until(lambda: _count(pool, 2))
        await buy(venue, client_order_id(second))
        await until(lambda: _count(pool, 4))
    assert cursors[0] is None
    assert cursors[1] is not None


async def test_a_lost_database_is_waited_for(kafka: str, venue: SimulatedVenue, pool: Pool) -> None:
    """When PostgreSQL ends all sessions, the feed finds its way back and leaves nothing out."""
    first, second = uuid4(), uuid4()
    async with feeding(venue, pool, kafka) as task:
        await buy(venue, client_order_id(first))
        await until(lambda: _count(pool, 2))
        await pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await buy(venue, client_order_id(second))
        await until(lambda: _count(pool, 4))
        assert not task.done()


async def test_the_market_is_followed(venue: SimulatedVenue, pool: Pool) -> None:
    """Rules, fee and the last price are kept, so that market orders have something to go by."""
    task = asyncio.create_task(follow_market(venue, "paper", pool, D("0.002")))
    try:
        await until(lambda: _price(pool, D("1.1")))
        venue.step("EUR/USD")
        await until(lambda: _price(pool, D("1.2")))
    finally:
        task.cancel()
        await asyncio.wait([task])
    async with pool.acquire() as sql:
        (instrument,) = await load_instruments(sql, "paper")
    assert (instrument.symbol, instrument.base, instrument.quote) == ("EUR/USD", "EUR", "USD")
    assert (instrument.tick, instrument.fee_rate) == (D("0.00001"), D("0.002"))


async def _count(pool: Pool, wanted: int) -> bool:
    try:
        return len(await published(pool)) >= wanted
    except (asyncpg.PostgresError, asyncpg.InterfaceError):
        return False


async def _price(pool: Pool, wanted: Decimal) -> bool:
    return await pool.fetchval("SELECT reference_price FROM instrument WHERE symbol = 'EUR/USD'") == wanted
