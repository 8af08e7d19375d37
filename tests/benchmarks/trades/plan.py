"""How much is measured of real trades."""

from collections.abc import Sequence
from typing import NamedTuple

RATES = (5, 10, 20, 60)
BURSTS = (1_000, 4_000)
ACCOUNTS = tuple(f"desk-{number}" for number in range(1, 11))
"""Trades are of these accounts in turn."""


class TradeLoad(NamedTuple):
    """Some trades, started at a rate per second or, at 0, all at once."""

    rate: int
    trades: int

    @property
    def name(self) -> str:
        """The name of the load in the table."""
        return f"{self.rate}/s" if self.rate else f"{self.trades:,} at once"


class TradePlan(NamedTuple):
    """How much is measured; `seconds` is how long an open rate lasts, `budget` when no round is begun."""

    rounds: int
    seconds: float
    rates: Sequence[int]
    bursts: Sequence[int]
    idle_seconds: float
    budget: float | None

    @property
    def loads(self) -> list[TradeLoad]:
        """The loads in order."""
        return [*(at_rate(rate, self.seconds) for rate in self.rates), *(TradeLoad(0, burst) for burst in self.bursts)]


def at_rate(rate: int, seconds: float) -> TradeLoad:
    """Return the load of an open rate that lasts so long."""
    return TradeLoad(rate, max(1, round(rate * seconds)))
