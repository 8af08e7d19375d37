"""Bars of a market, passed to the strategies that trade it: each once, in order, without gaps."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from uuid import UUID, uuid5

import structlog

from tradesaga.infra.clock import format_time
from tradesaga.infra.telemetry.tracing import new_traceparent
from tradesaga.infra.venues.klines import PAGE, Kline, Klines
from tradesaga.producers.strategy.config import Crossover, StrategyConfig
from tradesaga.sagas.trade.arithmetic import EXACT, multiply, round_down, round_up
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.envelope import Envelope, Header
from tradesaga.schemas.identity import NAMESPACE
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.messages.signals import SignalRaised
from tradesaga.schemas.messages.trade import OrderType, Side

_MILLISECOND: Final = 1_000_000


class SignalMaker:
    """Turns bars into the signals of one strategy; `live` counts the bars that closed after the start."""

    def __init__(self, strategy: StrategyConfig, tick: Decimal) -> None:
        self.strategy = strategy
        self.live = 0
        self.signals = 0
        self._tick = tick
        self._crossover = Crossover(strategy.fast, strategy.slow)

    def warm_up(self, past: Sequence[Kline]) -> list[SignalRaised]:
        """Process the bars closed before the start; only the last `catch_up` of them may give signals."""
        found = [(at, self._process(bar)) for at, bar in enumerate(past)]
        first = len(past) - self.strategy.catch_up
        return self._counted([signal for at, signal in found if signal is not None and at >= first])

    def take(self, bar: Kline) -> list[SignalRaised]:
        """Process a bar that has closed since."""
        self.live += 1
        signal = self._process(bar)
        return self._counted([signal] if signal is not None else [])

    def _counted(self, signals: list[SignalRaised]) -> list[SignalRaised]:
        self.signals += len(signals)
        return signals

    def _process(self, bar: Kline) -> SignalRaised | None:
        side = self._crossover.feed(bar.close)
        if side is None:
            return None
        strategy = self.strategy
        return SignalRaised(
            signal_id=f"{strategy.symbol}-{bar.opened}-{strategy.fast}-{strategy.slow}",
            strategy=strategy.name,
            symbol=strategy.symbol,
            side=side,
            quantity=strategy.quantity,
            order_type=strategy.order_type,
            limit_price=self._limit(side, bar.close) if strategy.order_type is OrderType.LIMIT else None,
            time_in_force=strategy.time_in_force,
            observed_price=bar.close,
            observed_at=bar.closed * _MILLISECOND,
        )

    def _limit(self, side: Side, close: Decimal) -> Decimal:
        """Return the limit price, rounded to ticks away from the market."""
        sign = -1 if side is Side.BUY else 1
        away = EXACT.divide(Decimal(10_000 + sign * self.strategy.offset_bps), Decimal(10_000))
        price = multiply(close, away)
        return max(round_down(price, self._tick), self._tick) if side is Side.BUY else round_up(price, self._tick)


def make_record(signal: SignalRaised) -> tuple[bytes, bytes, list[Header]]:
    """Return key, value and headers; the event's id is derived from the signal's, so that duplicates are recognised."""
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


_WARM_UP: Final = 50
"""Bars read before the slow window's, to find out which average is above the other."""

log = structlog.get_logger("strategy")


class Market:
    """The bars of a symbol and an interval; it ends after `limit` bars."""

    def __init__(self, symbol: str, interval: str, strategies: Sequence[StrategyConfig], limit: int | None) -> None:
        self.symbol = symbol
        self.interval = interval
        self.bars = 0
        self.ended = ""
        self._makers: list[SignalMaker] = []
        self._strategies = strategies
        self._limit = limit
        self._last: int | None = None

    @property
    def name(self) -> str:
        """The market's name within a run."""
        return f"{self.symbol} {self.interval}"

    async def open(self, klines: Klines) -> list[SignalRaised]:
        """Read the past bars that the averages need; return their signals. Raises VenueError."""
        tick = await klines.tick(self.symbol)
        count = max(strategy.slow + strategy.catch_up for strategy in self._strategies) + _WARM_UP
        past = await klines.last(self.symbol, self.interval, count)
        self._makers = [SignalMaker(strategy, tick) for strategy in self._strategies]
        self._last = past[-1].opened if past else None
        return [signal for maker in self._makers for signal in maker.warm_up(past)]

    async def read(self, klines: Klines) -> list[SignalRaised]:
        """Return the signals of the bars closed since the last call. Raises VenueError."""
        signals = [signal for bar in await self._new(klines) for signal in self._take(bar)]
        if self._limit is not None and self.bars >= self._limit:
            self.ended = f"{self.bars} bars"
        return signals

    async def _new(self, klines: Klines) -> Sequence[Kline]:
        if self._last is None:
            found = await klines.last(self.symbol, self.interval, PAGE)
        else:
            # The last bar is read again: its presence shows that no bar is missing between it and the next.
            seen, *found = await klines.since(self.symbol, self.interval, self._last) or (None,)
            if seen is None or seen.opened != self._last:
                self.ended = "the venue's series does not continue from the last bar"
                log.warning("market ended", symbol=self.symbol, why=self.ended)
                return []
        return found if self._limit is None else found[: self._limit - self.bars]

    def _take(self, bar: Kline) -> list[SignalRaised]:
        self.bars += 1
        self._last = bar.opened
        return [signal for maker in self._makers for signal in maker.take(bar)]


def group_by_market(strategies: Sequence[StrategyConfig], limit: int | None) -> list[Market]:
    """Return the markets of these strategies; each is read once for all strategies that trade it."""
    grouped: dict[tuple[str, str], list[StrategyConfig]] = {}
    for strategy in strategies:
        grouped.setdefault((strategy.symbol, strategy.interval), []).append(strategy)
    return [Market(symbol, interval, group, limit) for (symbol, interval), group in grouped.items()]
