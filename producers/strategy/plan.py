"""What a strategy trades: a symbol, two windows, and the shape of its orders."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.schemas.amounts import Quantity
from tradesaga.schemas.invalid import first_invalid
from tradesaga.schemas.messages.signals import StrategyName
from tradesaga.schemas.messages.trade import OrderType, Symbol, TimeInForce

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
