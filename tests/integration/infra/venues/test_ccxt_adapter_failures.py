"""What each failure on the way to a venue means: not placed, not sent, or unknown."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.integration.infra.conftest import Connect
from tests.integration.infra.paper_exchange.process import KEY, SECRET, PaperProcess
from tests.integration.infra.venues.rigs import order
from tradesaga.infra.paper_exchange.command import listen_on
from tradesaga.infra.venues.ccxt_adapter import CcxtVenue
from tradesaga.infra.venues.ccxt_client import VenueAddress
from tradesaga.sagas.errors import OutcomeUnknownError
from tradesaga.sagas.trade.venue import OrderStatus, VenueRejected, VenueUnavailable, VenueUnknown

LISTING = (
    b'{"symbols":[{"symbol":"EURUSD","baseAsset":"EUR","quoteAsset":"USD","filters":['
    b'{"filterType":"PRICE_FILTER","tickSize":"0.1"},'
    b'{"filterType":"LOT_SIZE","stepSize":"1","minQty":"1","maxQty":"9"}]}]}'
)
Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]


def http(status: int, body: bytes) -> bytes:
    """Write an HTTP response."""
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@asynccontextmanager
async def answering(answer: bytes | None, patience: float = 0.0, limit: float = 20.0) -> AsyncGenerator[CcxtVenue]:
    """Connect to a server that lists EUR/USD and answers everything else with these bytes, then hangs up."""
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"exchangeInfo" in head:
            writer.write(http(200, LISTING))
            await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(patience)
        writer.write(answer or b"")

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.append(task)
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    venue = CcxtVenue(VenueAddress(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "k", "s", timeout=limit))
    try:
        yield venue
    finally:
        await venue.close()
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (None, VenueUnknown),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{", VenueUnknown),
        (http(200, b"{}"), VenueUnknown),
        (http(200, b"[]"), VenueUnknown),
        (http(200, b"<html>"), VenueUnknown),
        (http(500, b"oops"), VenueUnknown),
        (http(502, b"<html>"), VenueUnknown),
        (http(503, b'{"code":-1007,"msg":"Timeout"}'), VenueUnknown),
        (http(400, b'{"code":-1006,"msg":"Unexpected"}'), VenueUnknown),
        (http(408, b""), VenueUnknown),
        (http(429, b'{"code":-1003,"msg":"Too many requests"}'), VenueUnavailable),
        (http(418, b"banned"), VenueUnavailable),
        (http(400, b'{"code":-1013,"msg":"Filter failure: LOT_SIZE"}'), VenueRejected),
        (http(400, b'{"code":-2010,"msg":"Account has insufficient balance for requested action."}'), VenueRejected),
        (http(400, b'{"code":-1021,"msg":"Timestamp"}'), VenueRejected),
        (http(401, b'{"code":-2015,"msg":"Invalid API-key"}'), VenueRejected),
    ],
)
async def test_answer_means_what_it_proves(answer: bytes | None, outcome: type[Exception]) -> None:
    """Only an answer that proves that nothing was placed counts as that; all else is unknown."""
    async with answering(answer) as venue:
        with pytest.raises(outcome):
            await venue.place(order("a"))


async def test_silence_is_unknown_within_the_timeout() -> None:
    """A venue that does not answer in time leaves the outcome unknown, which handlers know by its base."""
    async with answering(http(200, b"{}"), patience=60.0, limit=1.0) as venue:
        start = time.monotonic()
        with pytest.raises(OutcomeUnknownError):
            await venue.place(order("a"))

    assert time.monotonic() - start < 30


async def test_refused_connection_was_not_sent() -> None:
    """Where nobody listens nothing was placed, and it may be tried again."""
    closed = listen_on("127.0.0.1", 0)
    port = closed.getsockname()[1]
    closed.close()
    venue = CcxtVenue(VenueAddress(f"http://127.0.0.1:{port}", KEY, SECRET))

    with pytest.raises(VenueUnavailable, match="is the venue running"):
        await venue.rules()

    await venue.close()


async def test_venue_that_dies_is_unavailable_and_then_well(paper: PaperProcess, connect: Connect) -> None:
    """The same adapter goes through a death of the venue without being made anew."""
    venue = connect()
    await venue.place(order("before", 20))
    paper.kill()
    with pytest.raises((VenueUnavailable, VenueUnknown)):
        await venue.place(order("while", 20))
    with pytest.raises(VenueUnavailable):
        await venue.place(order("while", 20))
    paper.start()

    assert await venue.query("while", "EUR/USD") is None
    assert (await venue.place(order("while", 20))).status is OrderStatus.FILLED


async def test_broken_connection_and_late_answer_are_unknown_and_found(paper: PaperProcess, connect: Connect) -> None:
    """An answer that is cut off or comes after the timeout: the order exists, and asking finds it."""
    venue = connect(timeout=3.0)
    await venue.rules()
    await paper.fault(kind="lost_answer", client_order_id="^cut$")
    await paper.fault(kind="latency", when="after", milliseconds=5000, client_order_id="^late$", operations=["place"])

    for name in ("cut", "late"):
        with pytest.raises(VenueUnknown):
            await venue.place(order(name, 20))
        found = await venue.query(name, "EUR/USD")
        assert found is not None
        assert found.status is OrderStatus.FILLED


async def test_outage_before_the_effect_is_unknown_and_not_found(paper: PaperProcess, connect: Connect) -> None:
    """A connection closed without an answer proves nothing; that nothing was placed shows when asked."""
    venue = connect()
    await paper.fault(kind="outage", mode="close", operations=["place"], next=1)

    with pytest.raises(VenueUnknown):
        await venue.place(order("closed", 20))

    assert await venue.query("closed", "EUR/USD") is None


async def test_expiry_travels_as_the_window(paper: PaperProcess, connect: Connect) -> None:
    """An expiry an hour away is cut to a minute, one in between is kept: the order is refused when it waits longer."""
    venue = connect()
    await paper.fault(kind="latency", operations=["place"], milliseconds=700, client_order_id="slow")

    far = await venue.place(replace(order("far", 20), expires=time.time_ns() + 3_600_000_000_000))
    with pytest.raises(VenueRejected):
        await venue.place(replace(order("slow-1", 20), expires=time.time_ns() + 300_000_000))
    soon = await venue.place(replace(order("slow-2", 20), expires=time.time_ns() + 30_000_000_000))

    assert (far.status, soon.status) == (OrderStatus.FILLED, OrderStatus.FILLED)
