"""Live reports of an account without gaps: from a WebSocket, and after a break from REST."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

import aiohttp
import orjson
import structlog

from tradesaga.infra.venues import binance_json
from tradesaga.infra.venues.account_history import AccountHistory
from tradesaga.infra.venues.ccxt_client import CcxtClient
from tradesaga.infra.venues.report_tracker import ReportGapError, ReportTracker
from tradesaga.sagas.trade.venue import VenueRejected, VenueReport, VenueUnavailable, VenueUnknown

_HEARTBEAT: Final = 15.0
_POLL: Final = 30.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_SUBSCRIBE_TIMEOUT: Final = 10.0
_BACKLOG: Final = 10_000
_OK: Final = 200
_CLIENT_ERRORS: Final = range(400, 500)
_TRADES: Final = {"TRADE", "TRADE_BUST"}

log = structlog.get_logger("tradesaga.venue_stream")

Json = Mapping[str, Any]
Inbox = asyncio.Queue[Json | None]


class ReportStream:
    """A stream of reports that reconnects as often as needed."""

    def __init__(
        self, client: CcxtClient, history: AccountHistory, symbols: Sequence[str] | None, cursor: str | None
    ) -> None:
        self._client = client
        self._history = history
        self._symbols = symbols
        self._tracker = ReportTracker(cursor)
        self._names: Mapping[str, str] = {}
        self._polled = float("-inf")

    async def run(self) -> AsyncGenerator[VenueReport]:
        """Stream forever; reconnect and catch up after a break. Raises VenueRejected if the subscription is refused."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with contextlib.aclosing(self._follow()) as reports:
                    async for report in reports:
                        pause = _FIRST_PAUSE
                        yield report
            except (VenueUnavailable, VenueUnknown, aiohttp.ClientError, OSError, TimeoutError) as error:
                log.warning("venue stream disconnected", why=str(error) or type(error).__name__, retry_in=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _follow(self) -> AsyncGenerator[VenueReport]:
        """Yield missed reports, then live ones, until the connection ends."""
        inbox: Inbox = asyncio.Queue(_BACKLOG)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self._client.stream_url, heartbeat=_HEARTBEAT) as connection,
        ):
            reader = asyncio.create_task(_read(connection, inbox))
            try:
                async with asyncio.timeout(_SUBSCRIBE_TIMEOUT):
                    await _subscribe(self._client, connection, inbox)
                self._poll_soon()
                while True:
                    async for report in self._poll():
                        yield report
                    event = await self._next(inbox)
                    if event is None:
                        return
                    for report in self._handle(event):
                        yield report
            finally:
                reader.cancel()

    def _poll_soon(self) -> None:
        self._polled = float("-inf")

    async def _poll(self) -> AsyncGenerator[VenueReport]:
        """If due, read by REST what the stream may have lost; trades first, so that their orders are known."""
        if time.monotonic() - self._polled < _POLL:
            return
        names = await self._history.symbols()
        self._names = {name: one for name, one in names.items() if self._symbols is None or one in self._symbols}
        for symbol in self._names.values():
            last_order, last_trade = self._tracker.since(symbol)
            trades = await self._history.trades_since(symbol, last_trade)
            orders = await self._history.orders_since(symbol, last_order)
            for order_id in self._tracker.busted_orders(symbol, trades):
                order = await self._history.find(symbol, {"orderId": order_id})
                orders += [] if order is None else [order]
            for report in self._tracker.catch_up(symbol, orders, trades):
                yield report
        self._polled = time.monotonic()

    async def _next(self, inbox: Inbox) -> Json | None:
        """Return the next event, an empty one when a poll is due, or None at the end of the connection."""
        try:
            # Not wait_for: on Python 3.11 it may lose a cancellation that coincides with an event.
            async with asyncio.timeout(max(self._polled + _POLL - time.monotonic(), 0)):
                message = await inbox.get()
        except TimeoutError:
            return {}
        return None if message is None else message.get("event", message)

    def _handle(self, event: Json) -> list[VenueReport]:
        symbol = self._names.get(str(event.get("s")))
        if event.get("e") != "executionReport" or symbol is None:
            return []
        try:
            trade = binance_json.read_event_trade(symbol, event) if event["x"] in _TRADES else None
            return list(self._tracker.follow(binance_json.read_event_order(symbol, event), trade))
        except (ReportGapError, LookupError, TypeError, ValueError, ArithmeticError) as gap:
            log.warning("venue stream has a gap", why=str(gap)[:200], symbol=symbol)
            self._poll_soon()
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
    if status in _CLIENT_ERRORS:
        raise VenueRejected(str(error.get("code", status)), str(error.get("msg", "subscription refused")))
    if status != _OK:
        raise VenueUnknown(f"the venue could not subscribe the stream: {status} {error.get('msg', '')}")
