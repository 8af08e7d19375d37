"""Venue port over ccxt, for the paper venue and any other with Binance's spot API."""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from tradesaga.infra.venues import binance_json
from tradesaga.infra.venues.account_history import NO_SUCH_ORDER, AccountHistory
from tradesaga.infra.venues.ccxt_client import CcxtClient, VenueAddress
from tradesaga.infra.venues.report_stream import ReportStream
from tradesaga.sagas.trade.venue import (
    EXPIRED,
    Balance,
    NewOrder,
    OrderReport,
    OrderStatus,
    SymbolRules,
    VenueRejected,
    VenueReport,
    VenueTrade,
    VenueUnknown,
)
from tradesaga.schemas.amounts import format_decimal
from tradesaga.schemas.messages.trade import OrderType

_LONGEST_WINDOW: Final = 60_000
_REFUSED: Final = "-2010"
_DUPLICATE: Final = "Duplicate order"


class CcxtVenue:
    """An account at a venue."""

    def __init__(self, address: VenueAddress) -> None:
        self._client = CcxtClient(address)
        self._history = AccountHistory(self._client)
        self._symbols = address.symbols

    async def place(self, order: NewOrder) -> OrderReport:
        """Place an order that the venue refuses after `order.expires`."""
        request = _write_order(order, await self._history.name(order.symbol), time.time_ns() // 1_000_000)
        try:
            return await self._client.call(
                "privatePostOrder", request, lambda view: binance_json.read_placed(order.symbol, view)
            )  # fmt: skip
        except VenueRejected as rejection:
            if rejection.code == _REFUSED and rejection.reason.startswith(_DUPLICATE):
                return await self._resolve_duplicate(order)
            raise

    async def cancel(self, client_order_id: str, symbol: str) -> OrderReport | None:
        """Cancel an order; if there is nothing to cancel, query how it ended."""
        request = {"symbol": await self._history.name(symbol), "origClientOrderId": client_order_id}
        try:
            report = await self._client.signed(
                "privateDeleteOrder", request, lambda view: binance_json.read_cancelled(symbol, view)
            )  # fmt: skip
        except VenueRejected as rejection:
            if rejection.code not in NO_SUCH_ORDER:
                raise
            return await self.query(client_order_id, symbol)
        return await self._history.with_fills(report)

    async def query(self, client_order_id: str, symbol: str, *, fills: bool = True) -> OrderReport | None:
        """Read an order and, if `fills`, its fills, a thousand at a time."""
        report = await self._history.find(symbol, {"origClientOrderId": client_order_id})
        return await self._history.with_fills(report) if report is not None and fills else report

    async def open_orders(self) -> Sequence[OrderReport]:
        """Return all resting orders."""
        symbols = await self._history.symbols()
        return await self._client.signed(
            "privateGetOpenOrders",
            {},
            lambda views: [binance_json.read_order(symbols[view["symbol"]], view) for view in views],
        )

    async def orders_since(self, symbol: str, after: str | None = None) -> Sequence[OrderReport]:
        """Return the orders after an order id, oldest first."""
        return await self._history.orders_since(symbol, after)

    async def trades_since(self, symbol: str, after: str | None = None) -> Sequence[VenueTrade]:
        """Return the trades after a trade id, oldest first."""
        return await self._history.trades_since(symbol, after)

    async def balances(self) -> Mapping[str, Balance]:
        """Return the account's balances by asset."""
        return await self._client.signed("privateGetAccount", {}, binance_json.read_balances)

    async def rules(self) -> Mapping[str, SymbolRules]:
        """Return the venue's current instruments and their rules."""
        return await self._history.rules()

    async def prices(self) -> Mapping[str, Decimal]:
        """Return the last price of each symbol that has one."""
        symbols = await self._history.symbols()
        return await self._client.call(
            "publicGetTickerPrice", {}, lambda views: binance_json.read_prices(symbols, views)
        )

    def reports(self, cursor: str | None = None) -> AsyncGenerator[VenueReport]:
        """Stream reports of the account's orders across disconnections and restarts; `aclose` the stream when done."""
        return ReportStream(self._client, self._history, self._symbols, cursor).run()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _resolve_duplicate(self, order: NewOrder) -> OrderReport:
        """Return the report of an order whose client order id the venue has already."""
        known = await self.query(order.client_order_id, order.symbol, fills=False)
        if known is None:
            raise VenueUnknown(f"the venue has {order.client_order_id} already, but does not find it")
        same = (known.side, known.type, known.quantity, known.price)
        if same != (order.side, order.type, order.quantity, order.price):
            raise VenueRejected(_REFUSED, f"the client order id {order.client_order_id} is another order's")
        if known.status is OrderStatus.REJECTED:
            raise VenueRejected(_REFUSED, known.reason)
        return known


def _write_order(order: NewOrder, name: str, now: int) -> dict[str, Any]:
    """Return Binance's request for a new order. The venue refuses it after `now` (milliseconds) + recvWindow."""
    window = min(order.expires // 1_000_000 - now, _LONGEST_WINDOW)
    if window <= 0:
        raise VenueRejected(EXPIRED, f"the order {order.client_order_id} expired before it was sent")
    request: dict[str, Any] = {
        "symbol": name,
        "side": order.side.value,
        "type": order.type.value,
        "quantity": format_decimal(order.quantity),
        "newClientOrderId": order.client_order_id,
        "newOrderRespType": "FULL",
        "timestamp": now,
        "recvWindow": window,
    }
    if order.type is OrderType.LIMIT and order.price is not None:
        request |= {"price": format_decimal(order.price), "timeInForce": order.time_in_force.value}
    return request
