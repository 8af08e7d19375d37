"""One market's bars as they close, fed to all plans that trade it: each once, in order, without a gap."""

from collections.abc import Sequence
from typing import Final

import structlog

from tradesaga.infra.venues.klines import PAGE, Kline, Klines
from tradesaga.producers.strategy.feed import Feed
from tradesaga.producers.strategy.plan import Plan
from tradesaga.schemas.messages.signals import SignalRaised

_SETTLING: Final = 50
"""Bars before the first that may signal, beside those of the slow window: they find out which average lies above."""

log = structlog.get_logger("strategy")


class Market:
    """A symbol's bars of one interval; it ends after `limit` bars."""

    def __init__(self, symbol: str, interval: str, plans: Sequence[Plan], limit: int | None) -> None:
        self.symbol = symbol
        self.interval = interval
        self.bars = 0
        self.ended = ""
        self.feeds: list[Feed] = []
        self._plans = plans
        self._limit = limit
        self._last: int | None = None

    @property
    def name(self) -> str:
        """The market's name within a run."""
        return f"{self.symbol} {self.interval}"

    async def open(self, klines: Klines) -> list[SignalRaised]:
        """Read the past that the averages need. Raises `VenueError`."""
        tick = await klines.tick(self.symbol)
        count = max(plan.slow + plan.catch_up for plan in self._plans) + _SETTLING
        past = await klines.last(self.symbol, self.interval, count)
        self.feeds = [Feed(plan, tick) for plan in self._plans]
        self._last = past[-1].opened if past else None
        return [signal for feed in self.feeds for signal in feed.warm_up(past)]

    async def read(self, klines: Klines) -> list[SignalRaised]:
        """Return the signals of the bars that have closed since the last call. Raises `VenueError`."""
        signals = [signal for bar in await self._new(klines) for signal in self._take(bar)]
        if self._limit is not None and self.bars >= self._limit:
            self.ended = f"{self.bars} bars"
        return signals

    async def _new(self, klines: Klines) -> Sequence[Kline]:
        if self._last is None:
            found = await klines.last(self.symbol, self.interval, PAGE)
        else:
            # The last bar seen is asked for again: its presence shows that nothing lies between it and the next.
            seen, *found = await klines.since(self.symbol, self.interval, self._last) or (None,)
            if seen is None or seen.opened != self._last:
                self.ended = "the venue's series does not go on from the last bar"
                log.warning("market ended", symbol=self.symbol, why=self.ended)
                return []
        return found if self._limit is None else found[: self._limit - self.bars]

    def _take(self, bar: Kline) -> list[SignalRaised]:
        self.bars += 1
        self._last = bar.opened
        return [signal for feed in self.feeds for signal in feed.take(bar)]


def group(plans: Sequence[Plan], limit: int | None) -> list[Market]:
    """Gather the plans by what they read, so that a market is read once for all of them."""
    keys = dict.fromkeys((plan.symbol, plan.interval) for plan in plans)
    return [
        Market(symbol, interval, [plan for plan in plans if (plan.symbol, plan.interval) == (symbol, interval)], limit)
        for symbol, interval in keys
    ]
