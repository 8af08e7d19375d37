"""Real prices: the hourly EUR/USD and daily GOOG bars that the `backtesting` package ships, read as data files.

Importing `backtesting` would pull in pandas and bokeh; its CSV files are found through the package's metadata instead.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Final

SOURCE: Final = "backtesting"


class TapeMissingError(Exception):
    """The price series is not there; the message says what to install."""


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


def read_tape(name: str, milliseconds: int, tick: Decimal) -> Sequence[Bar]:
    """Read the series that `backtesting` ships as `name`.csv, or a CSV file of that shape at a path of one's own."""
    path = Path(name) if name.endswith(".csv") else _find_shipped(f"{name}.csv")
    try:
        with path.open(newline="") as file:
            rows = csv.reader(file)
            next(rows)
            bars = [_read_bar(row, milliseconds, tick) for row in rows]
    except (OSError, StopIteration, ValueError, ArithmeticError, IndexError) as error:
        raise TapeMissingError(f"cannot read the price series {name}: {error}; check the file") from error
    if not bars:
        raise TapeMissingError(f"the price series {name} has no bars; check the file")
    return bars


def _find_shipped(file: str) -> Path:
    try:
        found = [entry for entry in files(SOURCE) or () if entry.parts[-2:] == ("test", file)]
    except PackageNotFoundError:
        found = []
    if not found:
        raise TapeMissingError(f"the price series {file} is not installed; pip install 'tradesaga[stack]'")
    return Path(str(found[0].locate()))


def _read_bar(row: Sequence[str], milliseconds: int, tick: Decimal) -> Bar:
    opened = int(datetime.fromisoformat(row[0]).replace(tzinfo=UTC).timestamp()) * 1000
    first, high, low, close = (Decimal(text).quantize(tick) for text in row[1:5])
    return Bar(opened, opened + milliseconds - 1, first, high, low, close, Decimal(row[5]))
