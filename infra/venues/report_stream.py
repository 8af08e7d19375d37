"""The account's reports, live and without gaps: a WebSocket tells what is new, REST what it missed."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

import aiohttp
import orjson
import structlog

from tradesaga.infra.venues import binance_shape as shape
from tradesaga.infra.venues.account_history import AccountHistory
from tradesaga.infra.venues.ccxt_client import CcxtClient
from tradesaga.infra.venues.report_tracker import ReportGapError, ReportTracker
from tradesaga.sagas.trade.venue import VenueRejected, VenueReport, VenueUnavailable, VenueUnknown

_HEARTBEAT: Final = 15.0
_SWEEP: Final = 30.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_PATIENCE: Final = 10.0
_BACKLOG: Final = 10_000
_OK: Final = 200
_OUR_FAULT: Final = range(400, 500)
_TRADES: Final = {"TRADE", "TRADE_BUST"}

log = structlog.get_logger("tradesaga.venue_stream")

Json = Mapping[str, Any]
Inbox = asyncio.Queue[Json | None]


class ReportStream:
    """One stream of reports, over as many connections as it takes."""

    def __init__(
        self, client: CcxtClient, history: AccountHistory, symbols: Sequence[str] | None, cursor: str | None
    ) -> None:
        self._client = client
        self._history = history
        self._symbols = symbols
        self._tracker = ReportTracker(cursor)
        self._names: Mapping[str, str] = {}
        self._swept = float("-inf")

    async def run(self) -> AsyncGenerator[VenueReport]:
        """Stream for ever: connect, catch up, follow; after a break, again. A refused subscription is raised."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with contextlib.aclosing(self._follow()) as reports:
                    async for report in reports:
                        pause = _FIRST_PAUSE
                        yield report
            except (VenueUnavailable, VenueUnknown, aiohttp.ClientError, OSError, TimeoutError) as error:
                log.warning("venue stream broke", why=str(error) or type(error).__name__, again_in=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _follow(self) -> AsyncGenerator[VenueReport]:
        """Yield the reports that were missed, then live ones, until the connection ends."""
        inbox: Inbox = asyncio.Queue(_BACKLOG)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self._client.stream_url, heartbeat=_HEARTBEAT) as connection,
        ):
            reader = asyncio.create_task(_read(connection, inbox))
            try:
                async with asyncio.timeout(_PATIENCE):
                    await _subscribe(self._client, connection, inbox)
                self._sweep_soon()
                while True:
                    async for report in self._sweep():
                        yield report
                    event = await self._next(inbox)
                    if event is None:
                        return
                    for report in self._tell(event):
                        yield report
            finally:
                reader.cancel()

    def _sweep_soon(self) -> None:
        self._swept = float("-inf")

    async def _sweep(self) -> AsyncGenerator[VenueReport]:
        """Read what the stream may have lost, if it is time for that; trades first, so that their orders are known."""
        if time.monotonic() - self._swept < _SWEEP:
            return
        names = await self._history.symbols()
        self._names = {name: one for name, one in names.items() if self._symbols is None or one in self._symbols}
        for symbol in self._names.values():
            last_order, last_trade = self._tracker.since(symbol)
            trades = await self._history.trades_since(symbol, last_trade)
            orders = await self._history.orders_since(symbol, last_order)
            for stranger in self._tracker.strangers(symbol, trades):
                order = await self._history.find(symbol, {"orderId": stranger})
                orders += [] if order is None else [order]
            for report in self._tracker.catch_up(symbol, orders, trades):
                yield report
        self._swept = time.monotonic()

    async def _next(self, inbox: Inbox) -> Json | None:
        """Return the next event, an empty one when it is time to sweep, or None at the end of the connection."""
        try:
            # Not wait_for: on Python 3.11 it may swallow a cancellation that comes together with an event.
            async with asyncio.timeout(max(self._swept + _SWEEP - time.monotonic(), 0)):
                message = await inbox.get()
        except TimeoutError:
            return {}
        return None if message is None else message.get("event", message)

    def _tell(self, event: Json) -> list[VenueReport]:
        symbol = self._names.get(str(event.get("s")))
        if event.get("e") != "executionReport" or symbol is None:
            return []
        try:
            trade = shape.read_event_trade(symbol, event) if event["x"] in _TRADES else None
            return list(self._tracker.follow(shape.read_event_order(symbol, event), trade))
        except (ReportGapError, LookupError, TypeError, ValueError, ArithmeticError) as gap:
            log.warning("venue stream has a gap", why=str(gap)[:200], symbol=symbol)
            self._sweep_soon()
            return []


async def _read(connection: aiohttp.ClientWebSocketResponse, inbox: Inbox) -> None:
    try:
        async for message in connection:
            if message.type is aiohttp.WSMsgType.TEXT:
                await inbox.put(orjson.loads(message.data))
    finally:
        await inbox.put(None)


async def _subscribe(client: CcxtClient, connection: aiohttp.ClientWebSocketResponse, inbox: Inbox) -> None:
    request = {"id": "1", "method": "userDataStream.subscribe.signature", "params": client.subscription()}
    await connection.send_str(orjson.dumps(request).decode())
    answer = await inbox.get()
    if answer is None:
        raise VenueUnknown("the venue closed the stream before it was subscribed")
    error: Json = answer.get("error") or {}
    status = int(answer.get("status", _OK))
    if status in _OUR_FAULT:
        raise VenueRejected(str(error.get("code", status)), str(error.get("msg", "subscription refused")))
    if status != _OK:
        raise VenueUnknown(f"the venue could not subscribe the stream: {status} {error.get('msg', '')}")
