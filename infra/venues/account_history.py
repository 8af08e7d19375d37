"""Orders and trades of an account at a venue, read page by page."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from tradesaga.infra.venues import binance_json
from tradesaga.infra.venues.ccxt_client import CcxtClient
from tradesaga.sagas.trade.venue import (
    SYMBOL_UNKNOWN,
    OrderReport,
    SymbolRules,
    VenueRejected,
    VenueTrade,
    VenueUnknown,
)

R = TypeVar("R", OrderReport, VenueTrade)
_PAGE: Final = 1000
NO_SUCH_ORDER: Final = frozenset({"-2013", "-2011"})


class AccountHistory:
    """Orders and trades of the client's account; callers use `BASE/QUOTE`, requests the venue's names."""

    def __init__(self, client: CcxtClient) -> None:
        self._client = client
        self._names: dict[str, str] = {}

    async def rules(self) -> Mapping[str, SymbolRules]:
        """Return the venue's current instruments and their rules."""
        rules, self._names = await self._client.call("publicGetExchangeInfo", {}, binance_json.read_listings)
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
            return await self._client.signed(
                "privateGetOrder", request, lambda view: binance_json.read_order(symbol, view)
            )
        except VenueRejected as rejection:
            if rejection.code not in NO_SUCH_ORDER:
                raise
            return None

    async def orders_since(self, symbol: str, after: str | None) -> list[OrderReport]:
        """Return the orders after an order id, oldest first."""
        return await self._pages("privateGetAllOrders", symbol, "orderId", after, read=binance_json.read_order)

    async def trades_since(self, symbol: str, after: str | None, order_id: str | None = None) -> list[VenueTrade]:
        """Return the trades after a trade id, oldest first, of one order or of all."""
        of = {} if order_id is None else {"orderId": order_id}
        return await self._pages("privateGetMyTrades", symbol, "fromId", after, read=binance_json.read_trade, of=of)

    async def _pages(
        self,
        endpoint: str,
        symbol: str,
        first: str,
        after: str | None,
        *,
        read: Callable[[str, binance_json.Json], R],
        of: Mapping[str, str] = MappingProxyType({}),
    ) -> list[R]:
        """Read pages until one is not full; `first` is the parameter for the id from which a page begins."""
        found: list[R] = []
        name, start = await self.name(symbol), int(after or -1) + 1
        while True:
            request = {"symbol": name, first: start, "limit": _PAGE, **of}
            page = await self._client.signed(endpoint, request, lambda views: [read(symbol, view) for view in views])
            found += page
            if len(page) < _PAGE:
                return found
            last = page[-1].fill.trade_id if isinstance(page[-1], VenueTrade) else page[-1].venue_order_id
            if int(last) < start:
                raise VenueUnknown(f"the venue repeats its page from id {start}")
            start = int(last) + 1

    async def with_fills(self, report: OrderReport) -> OrderReport:
        """Read an order's fills."""
        if not report.filled:
            return report
        return binance_json.with_fills(report, await self.trades_since(report.symbol, None, report.venue_order_id))
