"""Crossings of a whole price series, for the tests of strategies."""

from collections.abc import Iterable
from decimal import Decimal

from tradesaga.producers.strategy.config import Crossover
from tradesaga.schemas.messages.trade import Side


def crossovers(prices: Iterable[Decimal], fast: int, slow: int) -> list[tuple[int, Side]]:
    """Return the crossings in a series: the index of each one's bar, and the side."""
    crossover = Crossover(fast, slow)
    answers = [(index, crossover.feed(price)) for index, price in enumerate(prices)]
    return [(index, side) for index, side in answers if side is not None]
