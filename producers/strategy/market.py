"""One market's bars as they close, fed to all plans that trade it: each once, in order, without a gap."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from uuid import UUID, uuid5

import structlog

from tradesaga.infra.clock import format_time
from tradesaga.infra.telemetry.tracing import new_traceparent
from tradesaga.infra.venues.klines import PAGE, Kline, Klines
from tradesaga.producers.strategy.plan import Crossover, Plan
from tradesaga.sagas.trade.arithmetic import EXACT, multiply, round_down, round_up
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.envelope import Envelope, Header
from tradesaga.schemas.identity import NAMESPACE
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.messages.signals import SignalRaised
from tradesaga.schemas.messages.trade import OrderType, Side

_MILLISECOND: Final = 1_000_000


class Feed:
    """Feeds one plan's averages; `live` counts the bars that closed after the start."""

    def __init__(self, plan: Plan, tick: Decimal) -> None:
        self.plan = plan
        self.live = 0
        self.signals = 0
        self._tick = tick
        self._crossover = Crossover(plan.fast, plan.slow)

    def warm_up(self, past: Sequence[Kline]) -> list[SignalRaised]:
        """Process the bars closed before the start; only the last `catch_up` of them may signal."""
        found = [(at, self._see(bar)) for at, bar in enumerate(past)]
        first = len(past) - self.plan.catch_up
        return self._counted([signal for at, signal in found if signal is not None and at >= first])

    def take(self, bar: Kline) -> list[SignalRaised]:
        """Process a bar that has just closed."""
        self.live += 1
        signal = self._see(bar)
        return self._counted([signal] if signal is not None else [])

    def _counted(self, signals: list[SignalRaised]) -> list[SignalRaised]:
        self.signals += len(signals)
        return signals

    def _see(self, bar: Kline) -> SignalRaised | None:
        side = self._crossover.feed(bar.close)
        if side is None:
            return None
        plan = self.plan
        return SignalRaised(
            signal_id=f"{plan.symbol}-{bar.opened}-{plan.fast}-{plan.slow}",
            strategy=plan.name,
            symbol=plan.symbol,
            side=side,
            quantity=plan.quantity,
            order_type=plan.order_type,
            limit_price=self._limit(side, bar.close) if plan.order_type is OrderType.LIMIT else None,
            time_in_force=plan.time_in_force,
            observed_price=bar.close,
            observed_at=bar.closed * _MILLISECOND,
        )

    def _limit(self, side: Side, close: Decimal) -> Decimal:
        """Return the limit in whole ticks, on the side away from the market."""
        sign = -1 if side is Side.BUY else 1
        away = EXACT.divide(Decimal(10_000 + sign * self.plan.offset_bps), Decimal(10_000))
        price = multiply(close, away)
        return max(round_down(price, self._tick), self._tick) if side is Side.BUY else round_up(price, self._tick)


def record_of(signal: SignalRaised) -> tuple[bytes, bytes, list[Header]]:
    """Return key, value and headers; the event's id is the signal's own, so that it is known when it comes again."""
    name = str(signal_uuid(signal))
    envelope = Envelope(
        type=wire_type(trade.name, SignalRaised),
        id=name,
        source=f"/{trade.name}/strategy/{signal.strategy}",
        saga_id=name,
        time=format_time(signal.observed_at),
        traceparent=new_traceparent(),
    )
    return signal.strategy.encode(), signal.to_wire(), envelope.to_headers()


def signal_uuid(signal: SignalRaised) -> UUID:
    """Return the UUIDv5 (RFC 9562) of strategy and signal id in the sagas' namespace."""
    return uuid5(NAMESPACE, f"signal {signal.strategy} {signal.signal_id}")


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
