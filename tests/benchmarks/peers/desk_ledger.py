"""What the peers' real trade runs on: a database with the product's ledger, and a paper venue of its own."""

import asyncio
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from tests.benchmarks.stage import Stage
from tests.benchmarks.trades.accounts import open_accounts
from tests.benchmarks.trades.plan import ACCOUNTS
from tradesaga.infra.ledger.instruments import save_instruments, save_prices
from tradesaga.infra.local_stack.parts import venue_account
from tradesaga.infra.local_stack.ports import free_port
from tradesaga.infra.postgres.database import session
from tradesaga.infra.postgres.migrate import migrate
from tradesaga.producers.demo.snapshot import read_venue
from tradesaga.sagas.trade.orders import Instrument

SYMBOL = "EUR/USD"
RULES = Instrument(
    symbol=SYMBOL, base="EUR", quote="USD", tick=Decimal("0.00001"), lot=Decimal(1), min_quantity=Decimal(1),
    max_quantity=Decimal(1_000_000), min_notional=Decimal(10), fee_rate=Decimal("0.001"), collar=Decimal("0.1"),
    reference_price=None,
)  # fmt: skip
_LEDGER_ACCOUNTS = """
INSERT INTO ledger_account (owner, asset, kind) SELECT owner, asset, kind
FROM unnest($1::text[]) AS owner, (VALUES ('USD', 'held'), ('EUR', 'available'), ('USD', 'clearing'),
    ('EUR', 'clearing'), ('USD', 'fees')) AS place (asset, kind)
WHERE (owner = '@paper') = (kind IN ('clearing', 'fees')) ON CONFLICT DO NOTHING
"""
_EXPOSURES = "INSERT INTO risk_exposure (account, asset) SELECT unnest($1::text[]), 'USD' ON CONFLICT DO NOTHING"
_LEDGER = """
SELECT (SELECT count(*) FROM order_register WHERE status = 'SETTLED') AS settled,
    (SELECT count(*) FROM order_register WHERE status NOT IN ('SETTLED', 'WITHDRAWN')) AS open,
    (SELECT coalesce(sum(balance), 0) FROM ledger_account WHERE kind = 'held') AS held,
    (SELECT coalesce(sum(exposure) + sum(open_orders), 0) FROM risk_exposure) AS exposed,
    (SELECT count(*) FROM (SELECT FROM ledger_account GROUP BY asset HAVING sum(balance) <> 0) AS off) AS unbalanced,
    (SELECT coalesce(sum(balance), 0) FROM ledger_account WHERE kind IN ('clearing', 'fees') AND asset = 'USD') AS usd,
    (SELECT coalesce(sum(balance), 0) FROM ledger_account WHERE kind IN ('clearing', 'fees') AND asset = 'EUR') AS eur
"""


class PaperVenue(NamedTuple):
    """A paper venue that runs."""

    url: str
    folder: Path
    process: psutil.Process


@contextmanager
def paper_venue(folder: Path) -> Generator[PaperVenue]:
    """Run a venue while the body lasts; its ledger stays in the folder."""
    port = free_port()
    command = [sys.executable, "-m", "tradesaga.infra.cli.entry", "venue", "--port", str(port), "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        try:
            if not child.stdout or not child.stdout.readline():
                raise RuntimeError("the paper venue does not start")
            yield PaperVenue(f"http://127.0.0.1:{port}", folder, psutil.Process(child.pid))
        finally:
            child.terminate()


def credentials() -> tuple[str, str]:
    """Return key and secret of the venue's account."""
    return venue_account(None)


def make_ledger(stage: Stage, name: str, venue: PaperVenue) -> str:
    """Create the database with the product's tables, accounts and the instrument, and return its URL."""
    url = f"{stage.database.rsplit('/', 1)[0]}/{name}"
    if not stage.ask("SELECT FROM pg_database WHERE datname = $1", name):
        stage.ask(f"CREATE DATABASE {name}")
    migrate(url)
    price = httpx.get(f"{venue.url}/api/v3/ticker/price", params={"symbol": "EURUSD"}, timeout=10).json()["price"]
    asyncio.run(_fill(url, Decimal(price)))
    return url


async def _fill(url: str, price: Decimal) -> None:
    await open_accounts(url)
    async with session(url) as sql:
        await save_instruments(sql, "paper", [RULES])
        await save_prices(sql, "paper", {SYMBOL: price})
        await sql.execute(_LEDGER_ACCOUNTS, [*ACCOUNTS, "@paper"])
        await sql.execute(_EXPOSURES, ACCOUNTS)


def find_differences(stage: Stage, url: str, venue: PaperVenue) -> list[str]:
    """Compare the ledger with itself and with all fills of the venue, to the cent."""
    (row,) = stage.ask(_LEDGER, url=url)
    trades = read_venue(venue.url, (venue.folder / "admin.key").read_text().strip())["trades"]
    usd = sum(
        (Decimal(each["quantity"]) * Decimal(each["price"]) + Decimal(each["fee"]) for each in trades), Decimal(0)
    )
    eur = sum((Decimal(each["quantity"]) for each in trades), Decimal(0))
    return differences(dict(row), len({each["order_id"] for each in trades}), usd, eur)


def differences(row: Mapping[str, Any], orders: int, usd: Decimal, eur: Decimal) -> list[str]:
    """Compare the sums of the ledger with the venue's orders, and the amounts of their fills."""
    expected = {
        "settled": orders, "open": 0, "held": 0, "exposed": 0, "unbalanced": 0, "usd": usd, "eur": -eur,
    }  # fmt: skip
    return [f"{name} is {row[name]}, should be {value}" for name, value in expected.items() if row[name] != value]
