"""What a strategy trades: a symbol, two windows, and the shape of its orders."""

import json
from collections import deque
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.sagas.trade.arithmetic import EXACT, ZERO
from tradesaga.schemas.amounts import Quantity
from tradesaga.schemas.invalid import first_invalid
from tradesaga.schemas.messages.signals import StrategyName
from tradesaga.schemas.messages.trade import OrderType, Side, Symbol, TimeInForce


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


Window = Annotated[int, Field(ge=1, le=5000)]


class Plan(BaseModel):
    """One pair of moving averages over one symbol.

    A LIMIT order's price lies `offset_bps` ten-thousandths of the close away from it, against itself: a buy below, a
    sell above; IOC orders so placed expire. `catch_up` is the number of past bars whose crossings are signalled as
    well at the start, under the same ids as ever: the router knows those it has had.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: StrategyName
    symbol: Symbol
    interval: Annotated[str, Field(pattern=r"^[1-9][0-9]?[smhdwM]$")] = "1h"
    fast: Window = 5
    slow: Window = 20
    quantity: Quantity
    order_type: OrderType = OrderType.MARKET
    offset_bps: Annotated[int, Field(ge=0, lt=10_000)] = 0
    time_in_force: TimeInForce = TimeInForce.IOC
    catch_up: Annotated[int, Field(ge=0, le=100_000)] = 0

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        """Check that the fast window is the shorter one, and that only LIMIT orders have an offset."""
        if self.fast >= self.slow:
            raise ValueError("fast must be less than slow")
        if self.offset_bps and self.order_type is not OrderType.LIMIT:
            raise ValueError("offset_bps belongs to LIMIT orders")
        return self

    @property
    def label(self) -> str:
        """The plan's name, unique among those that run together: it is part of their signals' ids."""
        return f"{self.name} {self.symbol} {self.fast}/{self.slow}"


def check_plans(entries: Sequence[object], where: str) -> list[Plan]:
    """Read plans. Raises `CommandError` (exit 2) naming the first that is wrong, and for two with one label."""
    try:
        plans = TypeAdapter(list[Plan]).validate_python(entries)
    except ValidationError as error:
        first = first_invalid(error)
        raise _wrong(f"entry {first.field}: {first.reason}", where) from None
    labels = [plan.label for plan in plans]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise _wrong(f"{twice} is given twice; its signals would share their ids", where)
    if not plans:
        raise _wrong("there is nothing to trade", where)
    return plans


def read_plans(file: Path) -> list[Plan]:
    """Read a JSON list of plans. Raises `CommandError`: exit 3 for a file that is not there, 2 for a wrong one."""
    try:
        entries = json.loads(file.read_text())
    except OSError as error:
        do = "give a file that can be read"
        what = f"the strategy's file cannot be read: {error.strerror}"
        raise CommandError("config-missing", what, str(file), do, ExitCode.NOT_FOUND) from error
    except ValueError as error:
        raise _wrong(f"it is not JSON: {error}", str(file)) from None
    if not isinstance(entries, list):
        raise _wrong("it is no list of plans", str(file))
    return check_plans(entries, str(file))  # pyright: ignore[reportUnknownArgumentType] - judged there


def _wrong(what: str, where: str) -> CommandError:
    do = "give a list of {name, symbol, fast, slow, quantity, ...}; see `tradesaga strategy run --help`"
    return CommandError("strategy-invalid", f"the strategy is not valid: {what}", where, do, ExitCode.USAGE)
