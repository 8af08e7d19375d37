"""Closed bars of a venue, read without a key."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from tradesaga.infra.venues import binance_json
from tradesaga.infra.venues.ccxt_client import CcxtClient, VenueAddress
from tradesaga.sagas.trade.venue import SYMBOL_UNKNOWN, VenueRejected

PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Kline:
    """A closed bar; `opened` and `closed` are milliseconds since 1970 UTC."""

    opened: int
    closed: int
    close: Decimal


class Klines:
    """Reads bars of symbols (`BASE/QUOTE`), through one connection pool."""

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        self._client = CcxtClient(VenueAddress(url, "", "", timeout=timeout))
        self._names: dict[str, str] = {}
        self._ticks: dict[str, Decimal] = {}

    async def tick(self, symbol: str) -> Decimal:
        """Return the symbol's tick size. Raises VenueRejected if the symbol is not listed."""
        if not self._names:
            rules, self._names = await self._client.call("publicGetExchangeInfo", {}, binance_json.read_listings)
            self._ticks = {name: rule.tick for name, rule in rules.items()}
        if symbol not in self._ticks:
            raise VenueRejected(SYMBOL_UNKNOWN, f"the venue does not list {symbol}")
        return self._ticks[symbol]

    async def since(self, symbol: str, interval: str, opened: int) -> Sequence[Kline]:
        """Return closed bars, oldest first, from the one that opened at `opened` on; at most a page."""
        return await self._read(symbol, interval, {"startTime": opened})

    async def last(self, symbol: str, interval: str, count: int) -> Sequence[Kline]:
        """Return the last `count` closed bars, oldest first; fewer if the venue has no more."""
        bars: list[Kline] = []
        while len(bars) < count:
            older = await self._read(symbol, interval, {"endTime": bars[0].opened - 1} if bars else {})
            if not older:
                break
            bars = [*older, *bars]
        return bars[-count:] if count else []

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _read(self, symbol: str, interval: str, request: dict[str, Any]) -> Sequence[Kline]:
        # The time is read first: a bar that had closed by then does not change any more.
        now = await self._client.call("publicGetTime", {}, lambda view: int(view["serverTime"]))
        await self.tick(symbol)
        whole = {"symbol": self._names[symbol], "interval": interval, "limit": PAGE, **request}
        bars = await self._client.call("publicGetKlines", whole, lambda views: [_read_bar(view) for view in views])
        return [bar for bar in bars if bar.closed < now]


def _read_bar(view: Any) -> Kline:
    return Kline(int(view[0]), int(view[6]), Decimal(str(view[4])))
