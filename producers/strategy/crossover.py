"""When a fast moving average crosses a slow one, computed bar by bar and exactly."""

from collections import deque
from collections.abc import Iterable
from decimal import Decimal

from tradesaga.sagas.trade.arithmetic import EXACT, ZERO
from tradesaga.schemas.messages.trade import Side


class _Sum:
    """The sum of the last `size` prices."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.total = ZERO
        self._prices: deque[Decimal] = deque()

    def add(self, price: Decimal) -> None:
        self._prices.append(price)
        self.total = EXACT.add(self.total, price)
        if len(self._prices) > self.size:
            self.total = EXACT.subtract(self.total, self._prices.popleft())

    @property
    def full(self) -> bool:
        return len(self._prices) == self.size


class Crossover:
    """Says BUY on the bar whose fast average comes to lie above the slow one, SELL on the one where it falls below.

    Averages that are equal change nothing, and the first relation there is raises no signal: nothing was crossed.
    """

    def __init__(self, fast: int, slow: int) -> None:
        if not 0 < fast < slow:
            raise ValueError(f"the fast window ({fast}) must be shorter than the slow one ({slow})")
        self._fast, self._slow = _Sum(fast), _Sum(slow)
        self._above: bool | None = None

    def feed(self, price: Decimal) -> Side | None:
        """Process the next bar's price."""
        self._fast.add(price)
        self._slow.add(price)
        if not self._slow.full:
            return None
        # Averages are compared as products, so that no division rounds.
        fast = EXACT.multiply(self._fast.total, Decimal(self._slow.size))
        slow = EXACT.multiply(self._slow.total, Decimal(self._fast.size))
        if fast == slow:
            return None
        before, self._above = self._above, fast > slow
        if before is None or before is self._above:
            return None
        return Side.BUY if self._above else Side.SELL


def crossovers(prices: Iterable[Decimal], fast: int, slow: int) -> list[tuple[int, Side]]:
    """Return the crossings in a series: the index of each one's bar, and the side."""
    crossover = Crossover(fast, slow)
    answers = [(index, crossover.feed(price)) for index, price in enumerate(prices)]
    return [(index, side) for index, side in answers if side is not None]
