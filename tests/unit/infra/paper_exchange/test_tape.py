"""The prices are the real series, read as data: nothing heavy is imported for them."""

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from tradesaga.infra.paper_exchange.book import PricesMissingError, read_prices


def test_shipped_series_are_read_to_the_digit() -> None:
    """All 5,000 hours of EUR/USD and 2,148 days of GOOG are there, prices as they are written."""
    euro = read_prices("EURUSD", 3_600_000, Decimal("0.00001"))
    google = read_prices("GOOG", 86_400_000, Decimal("0.01"))

    assert (len(euro), len(google)) == (5000, 2148)
    assert (euro[0].open, euro[0].close) == (Decimal("1.0716"), Decimal("1.07219"))
    assert (google[-1].high, google[-1].low) == (Decimal("807.14"), Decimal("796.15"))
    assert euro[1].opened - euro[0].opened == 3_600_000
    assert euro[0].closed == euro[1].opened - 1


def test_reading_them_imports_neither_backtesting_nor_pandas() -> None:
    """Importing the package would cost a hundred megabytes in a process that wants three columns."""
    program = (
        "import sys; from decimal import Decimal; from tradesaga.infra.paper_exchange.book import read_prices;"
        "read_prices('GOOG', 86400000, Decimal('0.01'));"
        "print([name for name in ('backtesting', 'pandas', 'bokeh') if name in sys.modules])"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "content", ["", "h\n", "h\n2020-01-01,1,2\n", "h\nnot a day,1,1,1,1,1\n", "h\n2020-01-01,x,1,1,1,1\n"]
)
def test_broken_series_is_named(tmp_path: Path, content: str) -> None:
    """A file that is no series of bars is refused by name."""
    file = tmp_path / "tape.csv"
    file.write_text(content)

    with pytest.raises(PricesMissingError, match=r"tape\.csv"):
        read_prices(str(file), 1000, Decimal("0.01"))


def test_missing_series_says_what_to_install() -> None:
    """A series that is not installed is told with the remedy."""
    with pytest.raises(PricesMissingError, match="tradesaga"):
        read_prices("NOTHERE", 1000, Decimal("0.01"))
