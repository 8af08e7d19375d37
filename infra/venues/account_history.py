"""An account's past at a venue, read page by page."""

from collections.abc import Mapping
from typing import Any, Final

from tradesaga.infra.venues import binance_shape as shape
from tradesaga.infra.venues.ccxt_client import CcxtClient
from tradesaga.sagas.trade.venue import (
    SYMBOL_UNKNOWN,
    OrderReport,
    SymbolRules,
    VenueRejected,
    VenueTrade,
    VenueUnknown,
)

_PAGE: Final = 1000
NO_SUCH_ORDER: Final = frozenset({"-2013", "-2011"})


class AccountHistory:
    """Orders and trades of the client's account; symbols are `BASE/QUOTE` outside and the venue's names inside."""

    def __init__(self, client: CcxtClient) -> None:
        self._client = client
        self._names: dict[str, str] = {}

    async def rules(self) -> Mapping[str, SymbolRules]:
        """Return the venue's current instruments and their rules."""
        rules, self._names = await self._client.call("publicGetExchangeInfo", {}, shape.read_listings)
        return rules

    async def symbols(self) -> Mapping[str, str]:
        """Return the symbols by the venue's names."""
        if not self._names:
            await self.rules()
        return {name: symbol for symbol, name in self._names.items()}

    async def name(self, symbol: str) -> str:
        """Return the venue's name of a symbol."""
        if symbol not in self._names:
            await self.rules()
        if symbol not in self._names:
            raise VenueRejected(SYMBOL_UNKNOWN, f"the venue does not list {symbol}")
        return self._names[symbol]

    async def find(self, symbol: str, reference: Mapping[str, str]) -> OrderReport | None:
        """Read an order by `orderId` or `origClientOrderId`, without its fills."""
        request = {"symbol": await self.name(symbol), **reference}
        try:
            return await self._client.signed("privateGetOrder", request, lambda view: shape.read_order(symbol, view))
        except VenueRejected as rejection:
            if rejection.code not in NO_SUCH_ORDER:
                raise
            return None

    async def orders_since(self, symbol: str, after: str | None) -> list[OrderReport]:
        """Return the orders after an order id, oldest first."""
        found: list[OrderReport] = []
        while True:
            request = {"symbol": await self.name(symbol), "orderId": int(after or -1) + 1, "limit": _PAGE}
            page = await self._client.signed(
                "privateGetAllOrders", request, lambda views: [shape.read_order(symbol, view) for view in views]
            )
            found += page
            if len(page) < _PAGE:
                return found
            after = _next_page(after, page[-1].venue_order_id)

    async def trades_since(self, symbol: str, after: str | None, order_id: str | None = None) -> list[VenueTrade]:
        """Return the trades after a trade id, oldest first, of one order or of all."""
        found: list[VenueTrade] = []
        of: dict[str, Any] = {} if order_id is None else {"orderId": order_id}
        while True:
            request = {"symbol": await self.name(symbol), "fromId": int(after or -1) + 1, "limit": _PAGE, **of}
            page = await self._client.signed(
                "privateGetMyTrades", request, lambda views: [shape.read_trade(symbol, view) for view in views]
            )
            found += page
            if len(page) < _PAGE:
                return found
            after = _next_page(after, page[-1].fill.trade_id)

    async def with_fills(self, report: OrderReport) -> OrderReport:
        """Read an order's fills."""
        if not report.filled:
            return report
        return shape.with_fills(report, await self.trades_since(report.symbol, None, report.venue_order_id))


def _next_page(before: str | None, last: str) -> str:
    """Return the id to read on from; raises `VenueUnknown` for a page that would be read for ever."""
    if before is not None and int(last) <= int(before):
        raise VenueUnknown(f"the venue repeats its page behind id {before}")
    return last
