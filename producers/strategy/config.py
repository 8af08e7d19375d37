"""Configuration of strategies, and the moving averages that they compare."""

import json
from collections import deque
from collections.abc import Sequence
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
    """Detects crossings: BUY when the fast average rises above the slow one, SELL when it falls below.

    Equal averages change nothing. The first comparison gives no signal, since nothing was crossed.
    """

    def __init__(self, fast: int, slow: int) -> None:
        if not 0 < fast < slow:
            raise ValueError(f"the fast window ({fast}) must be shorter than the slow one ({slow})")
        self._fast, self._slow = _Sum(fast), _Sum(slow)
        self._above: bool | None = None

    def feed(self, price: Decimal) -> Side | None:
        """Process the next bar's price; return the side if the averages cross."""
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


Window = Annotated[int, Field(ge=1, le=5000)]


class StrategyConfig(BaseModel):
    """A pair of moving averages over a symbol.

    A LIMIT order's price is `offset_bps` basis points from the close, away from the market: a buy below, a sell above;
    such IOC orders expire. `catch_up` is the number of past bars whose signals are also published at the start, with
    the same ids as before: the signal router ignores those that it knows.
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
        """Name, symbol and windows, unique among strategies that run together: signal ids derive from them."""
        return f"{self.name} {self.symbol} {self.fast}/{self.slow}"


def validate_strategies(entries: Sequence[object], where: str) -> list[StrategyConfig]:
    """Validate strategies. Raises CommandError (exit 2) for the first invalid one, and for duplicates."""
    try:
        strategies = TypeAdapter(list[StrategyConfig]).validate_python(entries)
    except ValidationError as error:
        first = first_invalid(error)
        raise _invalid(f"entry {first.field}: {first.reason}", where) from None
    labels = [strategy.label for strategy in strategies]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise _invalid(f"{twice} is given twice; their signals would have the same ids", where)
    if not strategies:
        raise _invalid("there is nothing to trade", where)
    return strategies


def read_strategies(file: Path) -> list[StrategyConfig]:
    """Read a JSON list of strategies. Raises CommandError: exit 3 if the file cannot be read, 2 if it is invalid."""
    try:
        entries = json.loads(file.read_text())
    except OSError as error:
        do = "give a readable file"
        what = f"the configuration file cannot be read: {error.strerror}"
        raise CommandError("config-missing", what, str(file), do, ExitCode.NOT_FOUND) from error
    except ValueError as error:
        raise _invalid(f"it is not JSON: {error}", str(file)) from None
    if not isinstance(entries, list):
        raise _invalid("it is not a list", str(file))
    return validate_strategies(entries, str(file))  # pyright: ignore[reportUnknownArgumentType] - validated there


def _invalid(what: str, where: str) -> CommandError:
    do = "give a list of {name, symbol, fast, slow, quantity, ...}; see `tradesaga strategy run --help`"
    return CommandError("strategy-invalid", f"the strategy is not valid: {what}", where, do, ExitCode.USAGE)
