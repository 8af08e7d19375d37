"""What every venue behind the port does: one suite, for the venue in memory and for ccxt over the paper venue."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.infra.paper_exchange.process import ADMIN_KEY, small_market
from tests.integration.infra.venues.rigs import CLOSES, SYMBOL, MemoryRig, PaperRig, Rig, collect, order
from tradesaga.infra.paper_exchange.command import listen_on
from tradesaga.infra.paper_exchange.server import serve
from tradesaga.infra.paper_exchange.settings import PaperSettings
from tradesaga.infra.paper_exchange.venue import Venue
from tradesaga.infra.venues.report_tracker import CursorError
from tradesaga.sagas.trade.venue import EXPIRED, SYMBOL_UNKNOWN, OrderStatus, ReportKind, VenueRejected, VenueUnknown
from tradesaga.schemas.messages.trade import Side, TimeInForce

K = ReportKind


class VenueContract:
    """The suite; a subclass's fixture `rig` gives a venue with 100,000 EUR and USD and 2 x 1,000 EUR around 1.10."""

    async def test_rules_tell_tick_lot_and_minimum(self, rig: Rig) -> None:
        """The rules are those of the listing, by unified symbol."""
        rules = (await rig.port.rules())[SYMBOL]

        assert (rules.base, rules.quote) == ("EUR", "USD")
        assert (rules.tick, rules.lot, rules.minimum_notional) == (Decimal("0.00001"), Decimal(1), Decimal(10))

    async def test_market_order_fills_at_once_with_exact_fees(self, rig: Rig) -> None:
        """1,500 are taken from two levels; quote, fees and balances add up to the last digit."""
        report = await rig.port.place(order("m1", 1500))

        assert report.status is OrderStatus.FILLED
        assert [(fill.quantity, fill.price) for fill in report.fills] == [
            (Decimal(1000), Decimal("1.10001")),
            (Decimal(500), Decimal("1.10002")),
        ]
        assert report.quote == Decimal("1650.02")
        assert report.fees == {"USD": Decimal("1.65002")}
        balances = await rig.port.balances()
        assert balances["USD"].free == Decimal(100_000) - Decimal("1650.02") - Decimal("1.65002")
        assert balances["EUR"].free == Decimal(101_500)

    async def test_placed_order_is_found_again_with_its_fills(self, rig: Rig) -> None:
        """A query tells what the placement told."""
        placed = await rig.port.place(order("m1", 1500))

        found = await rig.port.query("m1", SYMBOL)

        assert found is not None
        assert (found.status, found.filled, found.quote) == (placed.status, placed.filled, placed.quote)
        assert [fill.trade_id for fill in found.fills] == [fill.trade_id for fill in placed.fills]
        assert found.fees == placed.fees

    async def test_limit_order_rests_and_holds_its_cost(self, rig: Rig) -> None:
        """A resting buy locks price times quantity and the fee, and gives all back when cancelled."""
        report = await rig.port.place(order("g1", 100, "1.05"))

        assert report.status is OrderStatus.ACKNOWLEDGED
        assert [one.client_order_id for one in await rig.port.open_orders()] == ["g1"]
        assert (await rig.port.balances())["USD"].locked == Decimal("105.105")
        cancelled = await rig.port.cancel("g1", SYMBOL)
        assert cancelled is not None
        assert cancelled.client_order_id == "g1"
        assert cancelled.status is OrderStatus.CANCELLED
        assert (await rig.port.balances())["USD"].free == Decimal(100_000)
        assert list(await rig.port.open_orders()) == []

    async def test_ioc_takes_what_is_there_and_expires(self, rig: Rig) -> None:
        """Of 2,500 wanted at once 2,000 are had; the rest expires."""
        report = await rig.port.place(order("i1", 2500, "1.2", time_in_force=TimeInForce.IOC))

        assert report.status is OrderStatus.EXPIRED
        assert report.filled == Decimal(2000)
        assert sum(fill.quantity for fill in report.fills) == Decimal(2000)

    async def test_ioc_beyond_the_market_expires_unfilled(self, rig: Rig) -> None:
        """An IOC order that reaches no price leaves no trace in the balances."""
        report = await rig.port.place(order("i2", 100, "1.05", time_in_force=TimeInForce.IOC))

        assert (report.status, report.filled, report.fills) == (OrderStatus.EXPIRED, 0, ())
        assert (await rig.port.balances())["USD"].free == Decimal(100_000)

    async def test_sell_takes_bids_and_pays_its_fee_from_the_proceeds(self, rig: Rig) -> None:
        """A sale brings price times quantity less the fee."""
        await rig.port.place(order("s1", 1000, side=Side.SELL))

        balances = await rig.port.balances()

        assert balances["EUR"].free == Decimal(99_000)
        assert balances["USD"].free == Decimal(100_000) + Decimal("1099.99") - Decimal("1.09999")

    async def test_same_client_order_id_is_one_order(self, rig: Rig) -> None:
        """Placing again under a name, even of a closed order, trades nothing and tells of the first."""
        first = await rig.port.place(order("twice", 100))

        again = await rig.port.place(order("twice", 100))

        assert again.venue_order_id == first.venue_order_id
        assert (await rig.port.balances())["EUR"].free == Decimal(100_100)

    async def test_simultaneous_placements_under_one_name_are_one_order(self, rig: Rig) -> None:
        """Ten at a time under one name trade once."""
        reports = await asyncio.gather(*(rig.port.place(order("race", 100)) for _ in range(10)))

        assert len({report.venue_order_id for report in reports}) == 1
        assert (await rig.port.balances())["EUR"].free == Decimal(100_100)

    async def test_client_order_id_of_another_order_is_refused(self, rig: Rig) -> None:
        """A name that stands for another order is no idempotent repeat."""
        await rig.port.place(order("taken", 100))

        with pytest.raises(VenueRejected):
            await rig.port.place(order("taken", 200))

    async def test_order_past_its_expiry_is_refused_and_never_exists(self, rig: Rig) -> None:
        """An expired order is refused, so that not found is an answer."""
        with pytest.raises(VenueRejected) as refusal:
            await rig.port.place(order("late", expires=time.time_ns() - 1))

        assert refusal.value.code == EXPIRED
        assert await rig.port.query("late", SYMBOL) is None

    async def test_order_that_expires_on_its_way_is_refused_and_never_exists(self, rig: Rig) -> None:
        """The far side checks the expiry when the order would take effect, not when it was sent."""
        await rig.fault(kind="latency", operations=["place"], milliseconds=400)

        with pytest.raises(VenueRejected) as refusal:
            await rig.port.place(order("slow", expires=time.time_ns() + 150_000_000))

        assert refusal.value.code == EXPIRED
        assert await rig.port.query("slow", SYMBOL) is None

    @pytest.mark.parametrize(
        "wrong",
        [
            {"price": Decimal("1.050001")},
            {"quantity": Decimal("10.5")},
            {"quantity": Decimal(5)},
            {"quantity": Decimal(900_000)},
            {"symbol": "XXX/USD", "price": Decimal(1)},
        ],
        ids=["tick", "lot", "notional", "funds", "symbol"],
    )
    async def test_order_against_the_rules_is_definitely_not_placed(self, rig: Rig, wrong: dict[str, Any]) -> None:
        """Tick, lot, minimum notional, funds and symbol are all refused with a reason, and refused again."""
        wanted = replace(order("wrong", 100, "1.05"), **wrong)

        for _ in range(2):
            with pytest.raises(VenueRejected) as refusal:
                await rig.port.place(wanted)
            assert refusal.value.reason

    async def test_unknown_symbol_has_its_code(self, rig: Rig) -> None:
        """Whoever validates orders can tell an unknown symbol from other refusals."""
        with pytest.raises(VenueRejected) as refusal:
            await rig.port.query("any", "XXX/USD")

        assert refusal.value.code == SYMBOL_UNKNOWN

    async def test_unknown_order_is_not_found(self, rig: Rig) -> None:
        """Neither query nor cancel knows an order that never was."""
        assert await rig.port.query("ghost", SYMBOL) is None
        assert await rig.port.cancel("ghost", SYMBOL) is None

    async def test_cancel_after_the_fill_tells_of_the_fill(self, rig: Rig) -> None:
        """A fill that was faster than the cancellation is the cancellation's answer, each time."""
        await rig.port.place(order("quick", 100))

        for _ in range(2):
            report = await rig.port.cancel("quick", SYMBOL)
            assert report is not None
            assert (report.status, report.filled) == (OrderStatus.FILLED, Decimal(100))
            assert len(report.fills) == 1

    async def test_cancel_after_a_partial_fill_keeps_the_fill(self, rig: Rig) -> None:
        """What was filled before the cancellation stays, with its fills."""
        await rig.port.place(order("part", 2500, "1.10002"))

        report = await rig.port.cancel("part", SYMBOL)

        assert report is not None
        assert (report.status, report.filled) == (OrderStatus.CANCELLED, Decimal(2000))
        assert len(report.fills) == 2

    async def test_resting_order_fills_when_the_price_comes(self, rig: Rig) -> None:
        """A buy at 1.09 waits through 1.10 and is filled, as maker, when a bar reaches 1.09."""
        await rig.port.place(order("wait", 100, "1.09"))
        await rig.step()
        before = await rig.port.query("wait", SYMBOL)
        await rig.step()
        after = await rig.port.query("wait", SYMBOL)

        assert before is not None
        assert after is not None
        assert before.status is OrderStatus.ACKNOWLEDGED
        assert (after.status, after.quote) == (OrderStatus.FILLED, Decimal(109))

    async def test_lost_answer_is_unknown_and_then_found(self, rig: Rig) -> None:
        """An order whose answer is lost exists; asking finds it, and placing it again changes nothing."""
        await rig.fault(kind="lost_answer", next=1)

        with pytest.raises(VenueUnknown):
            await rig.port.place(order("lost", 100))

        found = await rig.port.query("lost", SYMBOL)
        assert found is not None
        assert found.status is OrderStatus.FILLED
        again = await rig.port.place(order("lost", 100))
        assert again.venue_order_id == found.venue_order_id
        assert (await rig.port.balances())["EUR"].free == Decimal(100_100)

    async def test_outage_leaves_the_outcome_unknown(self, rig: Rig) -> None:
        """A venue that answers 503 says nothing about the order."""
        await rig.fault(kind="outage", next=1, operations=["place"])

        with pytest.raises(VenueUnknown):
            await rig.port.place(order("out", 100))

        assert await rig.port.query("out", SYMBOL) is None

    async def test_rejection_on_request_is_a_rejection(self, rig: Rig) -> None:
        """A fault that rejects orders does so with its reason, and a repeat says the same."""
        await rig.fault(kind="reject", client_order_id="^no", reason="not today", next=1)

        for _ in range(2):
            with pytest.raises(VenueRejected, match="not today"):
                await rig.port.place(order("no-1", 100))

    async def test_partial_fill_on_request(self, rig: Rig) -> None:
        """A fault lets a part of the order through at once; the rest of a market order expires."""
        await rig.fault(kind="partial", ratio="0.3", next=1)

        report = await rig.port.place(order("third", 1000))

        assert (report.status, report.filled) == (OrderStatus.EXPIRED, Decimal(300))

    async def test_reports_tell_each_order_in_its_order(self, rig: Rig) -> None:
        """Acknowledged first, then each fill, then the end; cumulated as they go."""
        await rig.port.place(order("a", 1500))
        await rig.port.place(order("b", 1000, "1.10002", time_in_force=TimeInForce.IOC))
        await rig.port.place(order("c", 100, "1.05"))
        await rig.port.cancel("c", SYMBOL)

        reports = await collect(rig, 8)

        told = {name: [(r.kind, r.cumulative_quantity) for r in reports if r.client_order_id == name] for name in "abc"}
        assert told == {
            "a": [(K.ACKNOWLEDGED, 0), (K.PARTIAL_FILL, 1000), (K.FILL, 1500)],
            "b": [(K.ACKNOWLEDGED, 0), (K.PARTIAL_FILL, 500), (K.EXPIRED, 500)],
            "c": [(K.ACKNOWLEDGED, 0), (K.CANCELLED, 0)],
        }

    async def test_reports_go_on_from_any_cursor(self, rig: Rig) -> None:
        """From each report's cursor the stream tells all that came after it, with the same ids."""
        await rig.port.place(order("a", 1500))
        await rig.port.place(order("b", 100, "1.05"))
        await rig.port.place(order("c", 100))
        everything = await collect(rig, 6)

        for number, report in enumerate(everything[:-1]):
            wanted = {one.report_id for one in everything[number + 1 :]}
            found: set[str] = set()
            async with aclosing(rig.port.reports(report.cursor)) as reports, asyncio.timeout(60):
                async for one in reports:
                    found.add(one.report_id)
                    if wanted <= found:
                        break

    async def test_reports_are_live(self, rig: Rig) -> None:
        """Who listens hears of an order that is placed later, and of its fill when the price comes."""
        listening = asyncio.create_task(collect(rig, 2))
        await asyncio.sleep(0.3)
        await rig.port.place(order("later", 100, "1.09"))
        await rig.step()
        await rig.step()

        reports = await listening

        assert [report.kind for report in reports] == [K.ACKNOWLEDGED, K.FILL]
        fill = reports[1].fill
        assert fill is not None
        assert (fill.price, fill.fee, fill.fee_asset) == (Decimal("1.09"), Decimal("0.109"), "USD")

    async def test_rejection_is_reported(self, rig: Rig) -> None:
        """A recorded rejection reaches the stream as the order's only report."""
        await rig.fault(kind="reject", next=1, reason="not today")
        with pytest.raises(VenueRejected):
            await rig.port.place(order("no", 100))

        (report,) = await collect(rig, 1)

        assert (report.kind, report.client_order_id, report.reason) == (K.REJECTED, "no", "not today")

    async def test_bust_is_reported_and_takes_the_trade_back(self, rig: Rig) -> None:
        """A busted trade is reported under its own id; balances are as before it; the history has both lines."""
        (fill,) = (await rig.port.place(order("oops", 100))).fills
        await rig.bust(fill.trade_id)

        reports = await collect(rig, 3)
        lines = await rig.port.trades_since(SYMBOL)

        assert reports[-1].kind is K.BUSTED
        assert reports[-1].fill is not None
        assert (reports[-1].fill.trade_id, reports[-1].fill.fee) == (fill.trade_id, fill.fee)
        assert [line.bust_of for line in lines] == [None, fill.trade_id]
        balances = await rig.port.balances()
        assert (balances["EUR"].free, balances["USD"].free) == (Decimal(100_000), Decimal(100_000))

    async def test_history_is_read_from_where_one_left_off(self, rig: Rig) -> None:
        """Orders and trades after an id are those after it, oldest first."""
        first = await rig.port.place(order("one", 100))
        second = await rig.port.place(order("two", 100))

        orders = await rig.port.orders_since(SYMBOL, first.venue_order_id)
        trades = await rig.port.trades_since(SYMBOL, first.fills[0].trade_id)

        assert [one.venue_order_id for one in orders] == [second.venue_order_id]
        assert [one.fill.trade_id for one in trades] == [second.fills[0].trade_id]

    async def test_foreign_cursor_is_refused(self, rig: Rig) -> None:
        """A cursor of something else is an error, not a start from anywhere."""
        with pytest.raises(CursorError):
            await collect(rig, 1, "nonsense")


class TestSimulatedVenue(VenueContract):
    """The suite on the venue in memory."""

    @pytest.fixture
    def rig(self, tmp_path: Path) -> MemoryRig:
        """Give the venue in memory."""
        return MemoryRig(tmp_path)


class TestCcxtOnPaperVenue(VenueContract):
    """The suite on ccxt, against the paper venue's process."""

    @pytest.fixture
    async def rig(self, tmp_path: Path) -> AsyncIterator[PaperRig]:
        """Give the adapter and its venue."""
        paper = Venue(PaperSettings.model_validate(small_market(tmp_path, CLOSES)), tmp_path / "ledger.sqlite")
        listener, ready, stop = listen_on("127.0.0.1", 0), asyncio.Event(), asyncio.Event()
        serving = asyncio.create_task(serve(paper, listener, ADMIN_KEY, ready.set, stop))
        await ready.wait()
        rig = PaperRig(paper, f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield rig
        await rig.port.close()
        stop.set()
        await serving
        paper.close()
