"""Price series and order books: a few levels of finite size around a bar's close, used up until the next bar."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Final

from tradesaga.infra.paper_exchange.records import ZERO, Order, Position
from tradesaga.infra.paper_exchange.settings import Listing
from tradesaga.schemas.messages.trade import Side

SOURCE: Final = "backtesting"


class PricesMissingError(Exception):
    """A price series is missing or cannot be read; the message names the remedy."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a price series; `opened` and `closed` are milliseconds since 1970 UTC."""

    opened: int
    closed: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal


def read_prices(name: str, milliseconds: int, tick: Decimal) -> Sequence[Bar]:
    """Read the series that `backtesting` ships as `name`.csv, or a CSV file of the same form at a path."""
    path = Path(name) if name.endswith(".csv") else _find_shipped(f"{name}.csv")
    try:
        with path.open(newline="") as file:
            rows = csv.reader(file)
            next(rows)
            bars = [_read_bar(row, milliseconds, tick) for row in rows]
    except (OSError, StopIteration, ValueError, ArithmeticError, IndexError) as error:
        raise PricesMissingError(f"cannot read the price series {name}: {error}; check the file") from error
    if not bars:
        raise PricesMissingError(f"the price series {name} has no bars; check the file")
    return bars


def _find_shipped(file: str) -> Path:
    try:
        found = [entry for entry in files(SOURCE) or () if entry.parts[-2:] == ("test", file)]
    except PackageNotFoundError:
        found = []
    if not found:
        raise PricesMissingError(f"the price series {file} is not installed; pip install 'tradesaga[stack]'")
    return Path(str(found[0].locate()))


def _read_bar(row: Sequence[str], milliseconds: int, tick: Decimal) -> Bar:
    opened = int(datetime.fromisoformat(row[0]).replace(tzinfo=UTC).timestamp()) * 1000
    first, high, low, close = (Decimal(text).quantize(tick) for text in row[1:5])
    return Bar(opened, opened + milliseconds - 1, first, high, low, close, Decimal(row[5]))


@dataclass(frozen=True, slots=True)
class Level:
    """A price and the quantity still available at it."""

    price: Decimal
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class Book:
    """The order book of a market at one time."""

    listing: Listing
    prices: Sequence[Bar]
    position: Position

    @property
    def bar(self) -> Bar:
        """The last closed bar; a series that ends starts again."""
        return self.prices[self.position.bar % len(self.prices)]

    @property
    def history(self) -> Sequence[Bar]:
        """The bars closed so far in this pass over the series."""
        return self.prices[: self.position.bar % len(self.prices) + 1]

    def levels(self, taker: Side) -> Iterator[Level]:
        """Iterate over the levels available to a taker of this side, best price first."""
        listing, sign = self.listing, 1 if taker is Side.BUY else -1
        best = self.bar.close + sign * listing.half_spread_ticks * listing.tick
        taken = self._taken(taker)
        for step in range(listing.levels):
            left = max(ZERO, min(listing.level_quantity, listing.level_quantity * (step + 1) - taken))
            price = best + sign * step * listing.level_ticks * listing.tick
            if left and price > 0:
                yield Level(price, left)

    def take(self, taker: Side, quantity: Decimal, limit: Decimal | None) -> list[Level]:
        """Return the parts of the levels at or better than `limit` that a taker gets, up to `quantity`."""
        pieces: list[Level] = []
        for level in self.levels(taker):
            if quantity <= 0 or (limit is not None and not _reaches(taker, limit, level.price)):
                break
            piece = min(quantity, level.quantity)
            pieces.append(Level(level.price, piece))
            quantity -= piece
        return pieces

    def left(self, taker: Side) -> Decimal:
        """Return the quantity still available in this bar to takers of this side."""
        return self.listing.level_quantity * self.listing.levels - self._taken(taker)

    def without(self, taker: Side, quantity: Decimal) -> Position:
        """Return the position after a taker has taken a quantity."""
        asks = self.position.taken_asks + (quantity if taker is Side.BUY else 0)
        bids = self.position.taken_bids + (quantity if taker is Side.SELL else 0)
        return Position(self.position.bar, bids, asks)

    def touched(self, order: Order) -> bool:
        """Return whether the bar's range has reached a resting order's price."""
        price = order.ticket.price
        if price is None:
            return False
        return price >= self.bar.low if order.ticket.side is Side.BUY else price <= self.bar.high

    def _taken(self, taker: Side) -> Decimal:
        return self.position.taken_asks if taker is Side.BUY else self.position.taken_bids


def part_of(quantity: Decimal, ratio: Decimal, lot: Decimal) -> Decimal:
    """Return a part of a quantity, rounded down to whole lots."""
    return (quantity * ratio / lot).to_integral_value(ROUND_DOWN) * lot


def _reaches(taker: Side, limit: Decimal, price: Decimal) -> bool:
    return limit >= price if taker is Side.BUY else limit <= price
