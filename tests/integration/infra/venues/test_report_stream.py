"""The report stream over breaks: dropped connections, a killed venue, a restarted client, lost messages."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from decimal import Decimal

import aiohttp
import orjson
import pytest

from tests.integration.infra.conftest import Connect
from tests.integration.infra.paper_exchange.process import PaperProcess, listens, soon
from tests.integration.infra.venues.rigs import order
from tradesaga.infra.venues import report_stream
from tradesaga.infra.venues.ccxt_adapter import CcxtVenue
from tradesaga.sagas.trade.venue import ReportKind, VenueError, VenueRejected, VenueReport
from tradesaga.schemas.messages.trade import TimeInForce

ENDS = {ReportKind.FILL, ReportKind.CANCELLED, ReportKind.EXPIRED, ReportKind.REJECTED}


class Listener:
    """Collects reports in the background, the last cursor with them."""

    def __init__(self, venue: CcxtVenue, cursor: str | None = None) -> None:
        self.reports: list[VenueReport] = []
        self.cursor = cursor
        self._task = asyncio.create_task(self._listen(venue))

    async def _listen(self, venue: CcxtVenue) -> None:
        async with aclosing(venue.reports(self.cursor)) as reports:
            async for report in reports:
                self.reports.append(report)
                self.cursor = report.cursor

    async def ended(self, names: set[str]) -> None:
        """Wait until the end of each of these orders is told."""

        async def all_told() -> bool:
            return names <= {report.client_order_id for report in self.reports if report.kind in ENDS}

        await soon(all_told)

    async def close(self) -> None:
        """Stop listening."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def assert_in_order(reports: list[VenueReport]) -> None:
    """Each order's reports come as acknowledged, fills that add up, one end."""
    for name in {report.client_order_id for report in reports}:
        mine = [report for report in reports if report.client_order_id == name]
        assert mine[0].kind is ReportKind.ACKNOWLEDGED
        assert mine[-1].kind in ENDS
        assert len([report for report in mine if report.kind in ENDS]) == 1
        fills = [report.fill.quantity for report in mine if report.fill is not None]
        assert sum(fills, Decimal(0)) == mine[-1].cumulative_quantity
        assert len({report.report_id for report in mine}) == len(mine)


async def trade(venue: CcxtVenue, prefix: str, count: int) -> set[str]:
    """Place orders that end at once, whatever breaks; give the names of those that the venue has."""
    there: set[str] = set()
    for number in range(count):
        name = f"{prefix}-{number}"
        try:
            await venue.place(order(name, 20, "1.2" if number % 3 else None, time_in_force=TimeInForce.IOC))
        except VenueError:
            await asyncio.sleep(0.05)
        there.add(name)
    return there


async def existing(venue: CcxtVenue, names: set[str]) -> set[str]:
    """Give those of the names that the venue knows."""
    return {one.client_order_id for one in await venue.orders_since("EUR/USD")} & names


async def test_nothing_is_missed_when_connections_drop(paper: PaperProcess, connect: Connect) -> None:
    """Streams are cut again and again while orders come in: every report arrives once, in order."""
    venue = connect()
    listener = Listener(venue)
    trading = asyncio.create_task(trade(venue, "drop", 120))
    for _ in range(6):
        await asyncio.sleep(0.15)
        await paper.admin("POST", "disconnect", {})
    await listener.ended(await trading)
    await listener.close()

    assert_in_order(listener.reports)


async def test_nothing_is_missed_when_the_venue_is_killed(paper: PaperProcess, connect: Connect) -> None:
    """The venue dies amid trading and comes back: the stream goes on by itself and has told everything."""
    venue = connect()
    listener = Listener(venue)
    trading = asyncio.create_task(trade(venue, "kill", 150))
    await asyncio.sleep(0.4)
    paper.kill()
    await asyncio.sleep(0.3)
    paper.start()
    there = await existing(venue, await trading)
    await listener.ended(there)
    await listener.close()

    assert len(there) > 5
    assert_in_order(listener.reports)


async def test_stored_cursor_covers_a_restart_of_the_client(paper: PaperProcess, connect: Connect) -> None:
    """Orders and ends of resting orders that came while nobody listened are told from the stored cursor."""
    venue = connect()
    listener = Listener(venue)
    await venue.place(order("early", 20))
    await venue.place(order("rests", 20, "1.09"))
    await venue.place(order("leaves", 20, "1.01"))
    await listener.ended({"early"})
    await soon(lambda: _told(listener, 4))
    await listener.close()
    await venue.place(order("meanwhile", 20))
    await venue.cancel("leaves", "EUR/USD")
    await paper.step(2)

    again = Listener(venue, listener.cursor)
    await again.ended({"rests", "leaves", "meanwhile"})
    await again.close()

    assert "early" not in {report.client_order_id for report in again.reports}
    kinds = {report.client_order_id: report.kind for report in again.reports if report.kind in ENDS}
    assert kinds == {"rests": ReportKind.FILL, "leaves": ReportKind.CANCELLED, "meanwhile": ReportKind.FILL}


def _tell_nothing(*_: object) -> list[VenueReport]:
    return []


async def _told(listener: Listener, count: int) -> bool:
    return len(listener.reports) >= count


async def test_bust_of_an_old_trade_is_told_after_a_restart(paper: PaperProcess, connect: Connect) -> None:
    """A bust that came while nobody listened, of an order long done with, is told with that order's name."""
    venue = connect()
    listener = Listener(venue)
    placed = await venue.place(order("old", 20))
    await venue.place(order("newer", 20))
    await listener.ended({"old", "newer"})
    await listener.close()
    await paper.admin("POST", "bust", {"tradeId": int(placed.fills[0].trade_id)})

    again = Listener(venue, listener.cursor)
    await soon(lambda: _told(again, 1))
    await again.close()

    assert [(one.kind, one.client_order_id) for one in again.reports] == [(ReportKind.BUSTED, "old")]


async def test_lost_messages_are_swept_up(
    paper: PaperProcess, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that lives but delivers nothing loses nothing: the past is read at intervals anyway."""
    monkeypatch.setattr(report_stream, "_POLL", 0.2)
    monkeypatch.setattr(report_stream.ReportStream, "_handle", _tell_nothing)
    venue = connect()
    listener = Listener(venue)
    await asyncio.sleep(0.3)
    await venue.place(order("silent", 20))
    await listener.ended({"silent"})
    await listener.close()

    assert_in_order(listener.reports)


async def test_gap_in_the_stream_is_noticed_and_filled(
    paper: PaperProcess, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one message is lost, the next of that order shows it, and the past is read at once."""
    tell: Callable[..., list[VenueReport]] = report_stream.ReportStream.__dict__["_handle"]
    lost: list[str] = []

    def forgetful(self: report_stream.ReportStream, event: report_stream.Json) -> list[VenueReport]:
        if event.get("x") == "TRADE" and not lost:
            lost.append("once")
            return []
        return tell(self, event)

    monkeypatch.setattr(report_stream.ReportStream, "_handle", forgetful)
    venue = connect()
    listener = Listener(venue)
    await soon(lambda: listens(paper))
    await venue.place(order("gap", 1500))
    await listener.ended({"gap"})
    await listener.close()

    assert lost == ["once"]
    assert_in_order(listener.reports)


@pytest.mark.parametrize("wrong", [{"key": "nobody"}, {"secret": "wrong"}])
async def test_wrong_credentials_end_the_stream_with_their_reason(
    paper: PaperProcess, connect: Connect, wrong: dict[str, str]
) -> None:
    """The stream does not retry for ever what can never succeed."""
    venue = connect(**wrong)

    with pytest.raises(VenueRejected):
        async with asyncio.timeout(10):
            await anext(venue.reports())


async def test_listen_key_stream_tells_binance_events(paper: PaperProcess) -> None:
    """The older stream works too: a listen key, then execution reports and account positions."""
    key = (await paper.send("POST", "userDataStream")).body["listenKey"]
    assert (await paper.send("PUT", f"userDataStream?listenKey={key}")).status == 200
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{paper.url}/ws/{key}") as socket:
        await paper.place("one", 20)
        events = [orjson.loads((await socket.receive(timeout=5)).data) for _ in range(3)]
    assert (await paper.send("DELETE", f"userDataStream?listenKey={key}")).status == 200
    refused = await paper.send("PUT", f"userDataStream?listenKey={key}")

    assert [(event["e"], event.get("x")) for event in events] == [
        ("executionReport", "NEW"),
        ("executionReport", "TRADE"),
        ("outboundAccountPosition", None),
    ]
    assert (events[1]["l"], events[1]["L"], events[1]["n"], events[1]["N"]) == (
        "20.00000000", "1.10001000", "0.02200020", "USD",
    )  # fmt: skip
    assert refused.code == -1125


async def test_many_traders_at_once_are_told_in_order(paper: PaperProcess, connect: Connect) -> None:
    """Two hundred orders from sixteen traders: each is told from its beginning to its end."""
    venue = connect()
    listener = Listener(venue)
    names = await asyncio.gather(*(trade(venue, f"t{number}", 13) for number in range(16)))
    await listener.ended(set[str]().union(*names))
    await listener.close()

    assert_in_order(listener.reports)
