"""An order of many fills: each report is read as often however many came before it, and polls read no fills."""

from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from uuid import UUID

import pytest
import pytest_asyncio

from tests.book import order
from tests.integration.consumers.services.rig import TradeRig, report, trade_rig
from tests.integration.consumers.services.test_execution import told
from tests.integration.infra.venues.simulated_venue import SimulatedVenue
from tradesaga.consumers.runtime import waiting_steps
from tradesaga.consumers.runtime.message import Message
from tradesaga.consumers.runtime.step_rows import Key
from tradesaga.consumers.services.execution import Desk
from tradesaga.infra.ledger.venue_reports import store_reported
from tradesaga.infra.postgres.database import session
from tradesaga.sagas.trade.orders import client_order_id
from tradesaga.sagas.trade.venue import OrderReport, OrderStatus
from tradesaga.schemas.messages import trade as t
from tradesaga.schemas.messages.lifecycle import StepContradicted

D = Decimal
pytestmark = [pytest.mark.stack]


@pytest_asyncio.fixture
async def rig(database_url: str) -> AsyncIterator[TradeRig]:
    """Give the four services with an empty book."""
    async with session(database_url) as sql, trade_rig(sql) as rig:
        yield rig


class Reads:
    """Counts the venue's reports that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        read = t.VenueReport.from_wire

        def counting(value: bytes) -> t.VenueReport:
            self.count += 1
            return read(value)

        monkeypatch.setattr(t.VenueReport, "from_wire", counting)

    @contextmanager
    def counted(self, found: list[int]) -> Generator[None]:
        """Add what is read meanwhile to a list."""
        before = self.count
        yield
        found.append(self.count - before)


def fills(saga_id: UUID, number: int) -> Sequence[t.VenueReport]:
    """Write the reports of an order of 100 that is filled in so many parts."""
    part = D(100) / number
    made: list[t.VenueReport] = []
    for each in range(1, number + 1):
        kind = "fill" if each == number else "partial_fill"
        one = report(saga_id, kind, str(part), str(each))
        made.append(one.model_copy(update={"cumulative_quantity": part * each, "cumulative_quote": part * each}))
    return made


async def say_one_by_one(rig: TradeRig, saga_id: UUID, told: Sequence[t.VenueReport]) -> None:
    """Store and publish reports as the feed does, and have each judged by itself."""
    for each in told:
        async with rig.sql.transaction():
            await store_reported(rig.sql, [(saga_id, each)])
        rig.forge(saga_id, each, b"", source="/trade/venue/paper")
        await rig.deliver("execution")


async def test_a_report_is_read_as_often_however_many_came_before(
    rig: TradeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times as many cost four times as much: to the end, told again behind it, and as contradictions."""
    reads = Reads(monkeypatch)
    found: dict[str, list[int]] = {"told": [], "told again": [], "busted": []}
    for number in (10, 40):
        saga_id = await rig.start(order(account="alice" if number == 10 else "bob", price="1.06"))
        await rig.settle()
        made = fills(saga_id, number)
        with reads.counted(found["told"]):
            await say_one_by_one(rig, saga_id, made)
        counted = "SELECT count(*) FROM venue_report WHERE counted AND saga_id = $1 AND ident LIKE 'fill:%'"
        assert await rig.sql.fetchval(counted, saga_id) == number
        with reads.counted(found["told again"]):
            await say_one_by_one(rig, saga_id, made)
        busted = [each.model_copy(update={"kind": "busted"}) for each in made]
        with reads.counted(found["busted"]):
            await say_one_by_one(rig, saga_id, [*busted, *busted])
    assert {name: (short, long) for name, (short, long) in found.items() if long > 4 * short} == {}
    [ten, forty] = rig.said(t.TradeFilled)
    assert {t.TradeFilled.from_wire(each.value).executions for each in (ten, forty)} == {10, 40}
    assert len(rig.said(StepContradicted)) == 50
    rows = "SELECT max(length(reports)) FROM step_execution WHERE step = 'confirm_fill'"
    assert await rig.sql.fetchval(rows) is None


async def test_reading_all_reports_for_each_is_seen(rig: TradeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was before: the reports of each saga of a batch are read, whatever has come of it."""

    def all_of_them(messages: Sequence[Message], *_: object) -> set[Key]:
        return {each.key for each in messages}

    monkeypatch.setattr(waiting_steps, "_may_answer", all_of_them)
    reads, found = Reads(monkeypatch), list[int]()
    for number in (10, 40):
        saga_id = await rig.start(order(account="alice" if number == 10 else "bob", price="1.06"))
        await rig.settle()
        made = fills(saga_id, number)
        await say_one_by_one(rig, saga_id, made)
        with reads.counted(found):
            await say_one_by_one(rig, saga_id, made)
    assert found[1] > 8 * found[0]


class CountingVenue(SimulatedVenue):
    """Counts the fills that are read from it; an order shows a thousand, and stands as it is told."""

    status = OrderStatus.PARTIALLY_FILLED
    read = 0

    async def query(self, client_order_id: str, symbol: str, *, fills: bool = True) -> OrderReport | None:
        """Answer as a venue would whose order has a thousand fills."""
        found = await super().query(client_order_id, symbol, fills=fills)
        assert found is not None
        self.read += 1000 if fills else 0
        object.__setattr__(found, "status", self.status)
        return found


async def test_polls_of_an_open_order_read_no_fills() -> None:
    """They are read once, when the order has ended."""
    venue = CountingVenue({"EUR/USD": [D("1.1"), D("1.05")]}, {"USD": D(10**6), "EUR": D(10**6)})
    desk, ctx = Desk(venue, "paper"), told(order(price="1.06"))
    await desk.place(t.RiskAccepted(exposure=D(1)), ctx)
    for _ in range(20):
        assert await desk.poll(ctx) == []
    assert venue.read == 0
    venue.status = OrderStatus.CANCELLED
    assert [each.client_order_id for each in await desk.poll(ctx)] == [client_order_id(ctx.saga_id)]
    assert venue.read == 1000
