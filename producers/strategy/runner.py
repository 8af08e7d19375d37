"""Runs strategies: reads markets until they end or the process is stopped, and publishes the signals."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiokafka.errors import KafkaError

from tradesaga.infra.errors import CommandError, ExitCode, unavailable
from tradesaga.infra.kafka.connections import KafkaUnavailableError
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.telemetry.metrics import SIGNALS_RAISED
from tradesaga.infra.venues.klines import Klines
from tradesaga.producers.strategy.market import Market, make_record
from tradesaga.sagas.trade.venue import VenueError, VenueRejected
from tradesaga.schemas.messages.signals import SignalRaised
from tradesaga.schemas.topics import SIGNALS

PAUSE: Final = 0.5
"""Seconds before a failed publication is retried."""
CLIENT: Final = "strategy"

log = structlog.get_logger("strategy")


@dataclass(slots=True)
class Summary:
    """The result of a run: bars and reason for the end by market, published signals by strategy."""

    bars: dict[str, int] = field(default_factory=dict[str, int])
    signals: dict[str, int] = field(default_factory=dict[str, int])
    ended: dict[str, str] = field(default_factory=dict[str, str])


class SignalPublisher:
    """Publishes signals and retries until the broker has them; a signal that is sent again has the same id."""

    def __init__(self, bootstrap: str, stop: asyncio.Event, topic: str = SIGNALS.name) -> None:
        self.counts: Counter[str] = Counter()
        self._stop = stop
        self._bootstrap = bootstrap
        self._topic = topic
        self._producer: Producer | None = None

    async def start(self) -> None:
        """Connect. Raises `KafkaUnavailableError`."""
        producer = Producer(self._bootstrap, CLIENT)
        await producer.start()
        self._producer = producer

    async def publish(self, signals: Sequence[SignalRaised]) -> None:
        """Publish in order; return once the broker has all of them, or the process is stopped."""
        while signals and not self._stop.is_set():
            try:
                await self._send(signals)
            except (KafkaUnavailableError, KafkaError, OSError) as error:
                log.warning("signals not published, retrying", why=str(error), count=len(signals))
                await self.close()
                await pause(self._stop, PAUSE)
                continue
            for signal in signals:
                self.counts[signal.strategy] += 1
                SIGNALS_RAISED.labels(signal.strategy).inc()
            return

    async def close(self) -> None:
        """Disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def _send(self, signals: Sequence[SignalRaised]) -> None:
        if self._producer is None:
            await self.start()
        assert self._producer is not None  # noqa: S101 - just started
        acks = [await self._producer.send(self._topic, *make_record(signal)) for signal in signals]
        await asyncio.gather(*acks)


async def trade_markets(
    markets: Sequence[Market], klines: Klines, publisher: SignalPublisher, *, poll: float, stop: asyncio.Event
) -> Summary:
    """Read the markets until each has ended or `stop` is set; `poll` is the seconds between two polls.

    Raises CommandError at the start: exit 5 if the venue or Kafka does not answer, 4 if the venue does not have such
    bars. Later, both servers are waited for.
    """
    await _begin(markets, klines, publisher)
    while not stop.is_set():
        open_markets = [market for market in markets if not market.ended]
        if not open_markets:
            break
        for market in open_markets:
            await _follow(market, klines, publisher)
        await pause(stop, poll)
    bars = {market.name: market.bars for market in markets}
    ended = {market.name: market.ended or "stopped" for market in markets}
    return Summary(bars, dict(publisher.counts), ended)


async def _begin(markets: Sequence[Market], klines: Klines, publisher: SignalPublisher) -> None:
    try:
        await publisher.start()
        for market in markets:
            await publisher.publish(await market.open(klines))
    except KafkaUnavailableError as error:
        do = "start it, or correct TRADESAGA_KAFKA"
        raise unavailable("kafka-unavailable", f"Kafka does not answer: {error}", "strategy", do) from error
    except VenueRejected as error:
        do = "give a symbol and an interval that it has"
        raise CommandError("venue-refuses", f"the venue refuses: {error}", "strategy", do, ExitCode.REFUSED) from error
    except VenueError as error:
        do = "start the venue, or correct TRADESAGA_VENUE_URL"
        raise unavailable("venue-unavailable", f"the venue does not return bars: {error}", "strategy", do) from error


async def _follow(market: Market, klines: Klines, publisher: SignalPublisher) -> None:
    try:
        signals = await market.read(klines)
    except VenueError as error:
        log.warning("bars not read", symbol=market.symbol, why=str(error))
        return
    await publisher.publish(signals)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for `seconds`, or until `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
