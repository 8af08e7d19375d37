"""Instruments: a venue's rules and last known price for each symbol."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import asyncpg

from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.trade.arithmetic import SMALLEST, is_multiple, multiply
from tradesaga.sagas.trade.orders import Instrument

_COLUMNS = "symbol, base, quote, tick, lot, min_quantity, max_quantity, min_notional, fee_rate, collar, reference_price"
_RULES = _COLUMNS.split(", ")[1:10]
_SAVE = f"""
INSERT INTO instrument (venue, {_COLUMNS}, reference_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, CASE WHEN $12::numeric IS NULL THEN NULL ELSE now() END)
ON CONFLICT (venue, symbol) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _RULES)},
    reference_price = coalesce(excluded.reference_price, instrument.reference_price),
    reference_at = coalesce(excluded.reference_at, instrument.reference_at)
"""
_PRICE = """
UPDATE instrument i SET reference_price = p.price, reference_at = clock_timestamp()
FROM unnest($2::text[], $3::numeric[]) AS p (symbol, price) WHERE i.venue = $1 AND i.symbol = p.symbol
"""


async def save_instruments(sql: Connection, venue: str, instruments: Iterable[Instrument]) -> list[str]:
    """Save the rules of these instruments; a known price is kept if none is given.

    Returns the symbols left out, whose tick times lot is finer than the ledger can hold exactly.
    """
    rows, left_out = list[Instrument](), list[str]()
    for one in instruments:
        if is_multiple(multiply(one.tick, one.lot), SMALLEST):
            rows.append(one)
        else:
            left_out.append(one.symbol)
    await sql.executemany(_SAVE, [(venue, *(getattr(one, name) for name in _COLUMNS.split(", "))) for one in rows])
    return left_out


async def save_prices(sql: Connection, venue: str, prices: Mapping[str, Decimal]) -> None:
    """Save last prices by symbol; symbols without rules are left out."""
    if prices:
        await sql.execute(_PRICE, venue, list(prices), list(prices.values()))


async def load_instruments(sql: Connection, venue: str) -> Sequence[Instrument]:
    """Read all instruments of a venue, by symbol."""
    rows = await sql.fetch(f"SELECT {_COLUMNS} FROM instrument WHERE venue = $1 ORDER BY symbol", venue)
    return [read_instrument(row) for row in rows]


def read_instrument(row: asyncpg.Record) -> Instrument:
    """Read an instrument from a row that has its columns."""
    return Instrument(*(row[name] for name in _COLUMNS.split(", ")))
