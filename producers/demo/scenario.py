"""The demo's scenario: accounts, strategies on real prices, and a venue with faults."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import orjson

from tradesaga.infra.ledger.accounts import NewAccount, book_payment, create_account
from tradesaga.infra.postgres.database import Connection
from tradesaga.schemas.amounts import format_decimal

SYMBOLS: Final = {"EUR/USD": Decimal(2000), "GOOG/USD": Decimal(20)}
INTERVALS: Final = {"EUR/USD": "1h", "GOOG/USD": "1d"}
WINDOWS: Final = ((3, 8), (5, 20), (8, 34), (13, 55))
BARS_A_SECOND: Final = 16.0
HOPEFUL: Final = "hopeful"
"""The strategy whose limits are away from the market, so that its orders expire."""

_SUBSCRIBE = """
INSERT INTO signal_subscription (strategy, symbol, account, size_factor, max_quantity, max_notional, max_per_minute)
VALUES ($1, $2, $3, 1, 1000000, 10000000, 10000)
"""


@dataclass(frozen=True, slots=True)
class Customer:
    """An account, its deposits, and the strategies it subscribes to."""

    account: NewAccount
    deposits: dict[str, Decimal]
    follows: tuple[str, ...]


def strategy_name(fast: int, slow: int) -> str:
    """Return the strategy's name for two windows."""
    return f"cross-{fast}-{slow}"


_RICH: Final = {"USD": Decimal(20_000_000), "EUR": Decimal(5_000_000), "GOOG": Decimal(50_000)}
_ALL: Final = tuple(strategy_name(*windows) for windows in WINDOWS)
CUSTOMERS: Final = (
    Customer(NewAccount("alpha", max_exposure=Decimal(10_000_000), max_open_orders=10_000), _RICH, (*_ALL, HOPEFUL)),
    Customer(NewAccount("beta", max_exposure=Decimal(10_000_000), max_open_orders=10_000), _RICH, _ALL),
    Customer(NewAccount("gamma", max_exposure=Decimal(10_000_000), max_open_orders=10_000), _RICH, _ALL[:2]),
    # Too poor: its orders fail for lack of funds.
    Customer(NewAccount("pauper"), {"USD": Decimal(100)}, _ALL[1:2]),
    # Rich, with a low limit that its orders breach.
    Customer(NewAccount("timid", max_order_notional=Decimal(500)), _RICH, _ALL[1:2]),
)


def write_venue_config(path: Path) -> None:
    """Write the venue's configuration: fast bars; 3% of orders rejected, 12% of answers lost, 5% filled in part."""
    faults = [
        {"kind": "reject", "probability": 0.03, "seed": 11, "reason": "The venue rejects it today."},
        {"kind": "lost_answer", "probability": 0.12, "seed": 12},
        {"kind": "partial", "probability": 0.05, "seed": 13, "ratio": "0.5"},
        {"kind": "latency", "operations": ["place"], "milliseconds": 5, "distribution": "exponential", "seed": 14},
    ]
    path.write_bytes(orjson.dumps({"speed": BARS_A_SECOND, "faults": faults}))


def write_strategies(path: Path) -> None:
    """Write the configuration of the strategies."""
    strategies = [
        {**_orders(symbol), "name": strategy_name(fast, slow), "fast": fast, "slow": slow}
        for symbol in SYMBOLS
        for fast, slow in WINDOWS
    ]
    bids = {"name": HOPEFUL, "fast": 4, "slow": 10, "order_type": "LIMIT", "offset_bps": 100}
    strategies += [{**_orders(symbol), **bids} for symbol in SYMBOLS]
    path.write_bytes(orjson.dumps(strategies))


def _orders(symbol: str) -> dict[str, Any]:
    quantity = format_decimal(SYMBOLS[symbol])
    return {"symbol": symbol, "interval": INTERVALS[symbol], "quantity": quantity, "time_in_force": "IOC"}


async def open_accounts(sql: Connection) -> dict[str, dict[str, str]]:
    """Open, fund and subscribe the accounts; return their deposits by asset."""
    for customer in CUSTOMERS:
        await create_account(sql, customer.account)
        for asset, amount in customer.deposits.items():
            await book_payment(sql, customer.account.id, asset, amount, f"demo {asset}")
        for strategy in customer.follows:
            for symbol in SYMBOLS:
                await sql.execute(_SUBSCRIBE, strategy, symbol, customer.account.id)
    return {
        customer.account.id: {asset: format_decimal(amount) for asset, amount in customer.deposits.items()}
        for customer in CUSTOMERS
    }
