"""Order register: the validated orders and their states; exposure of the accounts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from uuid import UUID

from tradesaga.infra.ledger.instruments import read_instrument
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.trade.exposure import Exposure, Limits
from tradesaga.sagas.trade.orders import Instrument, Terms
from tradesaga.schemas.messages.trade import TradeRequested

Status = Literal["VALIDATED", "COUNTED", "RELEASED", "WITHDRAWN", "SETTLED"]

_FIND = """
SELECT a.venue AS account_venue, a.status AS account_status, i.*
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS r (account, symbol, at)
LEFT JOIN account a ON a.id = r.account
LEFT JOIN instrument i ON i.venue = a.venue AND i.symbol = r.symbol
ORDER BY r.at
"""

_REGISTER = """
INSERT INTO order_register (saga_id, account, venue, symbol, side, quantity, order_type, limit_price, worst_price,
    time_in_force, quote, hold_asset, hold, notional)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::numeric[], $7::text[],
    $8::numeric[], $9::numeric[], $10::text[], $11::text[], $12::text[], $13::numeric[], $14::numeric[])
"""

_MARK = """
UPDATE order_register SET status = $2, updated_at = clock_timestamp() WHERE saga_id = ANY ($1::uuid[])
"""


@dataclass(frozen=True, slots=True)
class AccountInstrument:
    """The account and instrument of an order, each None if unknown."""

    venue: str | None
    status: str | None
    instrument: Instrument | None


@dataclass(frozen=True, slots=True)
class Registration:
    """A valid order to register."""

    saga_id: UUID
    request: TradeRequested
    venue: str
    quote: str
    terms: Terms


async def find_account_instruments(sql: Connection, requests: Sequence[TradeRequested]) -> list[AccountInstrument]:
    """Return the account and instrument of each request, in the order of the requests."""
    rows = await sql.fetch(_FIND, [one.account for one in requests], [one.symbol for one in requests])
    return [
        AccountInstrument(row["account_venue"], row["account_status"], read_instrument(row) if row["symbol"] else None)
        for row in rows
    ]


async def register(sql: Connection, orders: Sequence[Registration]) -> None:
    """Register valid orders."""
    if orders:
        await sql.execute(_REGISTER, *zip(*map(_row, orders), strict=True))


async def mark(sql: Connection, saga_ids: Iterable[UUID], status: Status) -> None:
    """Set the status of these orders."""
    if wanted := list(saga_ids):
        await sql.execute(_MARK, wanted, status)


def _row(order: Registration) -> tuple[Any, ...]:
    request, terms = order.request, order.terms
    return (
        order.saga_id, request.account, order.venue, request.symbol, request.side.value, request.quantity,
        request.order_type.value, request.limit_price, terms.worst_price, request.time_in_force.value,
        order.quote, terms.hold_asset, terms.hold, terms.notional,
    )  # fmt: skip


_OPEN = """
INSERT INTO risk_exposure (account, asset) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING
"""

_LOCK = """
SELECT e.account, e.asset, e.exposure, e.open_orders, a.max_order_notional, a.max_exposure, a.max_open_orders
FROM risk_exposure e JOIN account a ON a.id = e.account
JOIN unnest($1::text[], $2::text[]) AS k (account, asset) ON (e.account, e.asset) = (k.account, k.asset)
ORDER BY e.account, e.asset FOR UPDATE OF e
"""

_SET = """
UPDATE risk_exposure e SET exposure = c.exposure, open_orders = c.open_orders
FROM unnest($1::text[], $2::text[], $3::numeric[], $4::integer[]) AS c (account, asset, exposure, open_orders)
WHERE (e.account, e.asset) = (c.account, c.asset)
"""

_TAKE_OUT = """
WITH change AS (
    SELECT account, asset, sum(notional) AS notional, count(*) AS orders
    FROM unnest($1::text[], $2::text[], $3::numeric[]) AS c (account, asset, notional) GROUP BY account, asset
), locked AS (
    SELECT e.account, e.asset FROM risk_exposure e JOIN change USING (account, asset)
    ORDER BY e.account, e.asset FOR UPDATE OF e
)
UPDATE risk_exposure e SET exposure = e.exposure - c.notional, open_orders = e.open_orders - c.orders
FROM change c JOIN locked USING (account, asset) WHERE (e.account, e.asset) = (c.account, c.asset)
RETURNING e.account, e.asset, e.exposure
"""


class ExposureKey(NamedTuple):
    """An account and a quote asset, of which there is one exposure."""

    account: str
    asset: str


async def lock_exposures(sql: Connection, keys: Iterable[ExposureKey]) -> dict[ExposureKey, tuple[Limits, Exposure]]:
    """Lock these exposures until the transaction ends, creating missing rows; return them with the accounts' limits."""
    ordered = sorted(set(keys))
    columns = [key.account for key in ordered], [key.asset for key in ordered]
    await sql.execute(_OPEN, *columns)
    rows = await sql.fetch(_LOCK, *columns)
    return {
        ExposureKey(row[0], row[1]): (Limits(row[4], row[5], row[6]), Exposure(row[2], row[3])) for row in rows
    }  # fmt: skip


async def set_exposures(sql: Connection, exposures: Mapping[ExposureKey, Exposure]) -> None:
    """Write exposures; the caller has locked their rows."""
    if exposures:
        rows = [(*key, now.notional, now.open_orders) for key, now in exposures.items()]
        await sql.execute(_SET, *zip(*rows, strict=True))


async def remove_orders(sql: Connection, orders: Iterable[tuple[ExposureKey, Decimal]]) -> dict[ExposureKey, Decimal]:
    """Remove orders from their exposures; return the remaining exposures."""
    rows = [(*key, notional) for key, notional in orders]
    if not rows:
        return {}
    left = await sql.fetch(_TAKE_OUT, *zip(*rows, strict=True))
    return {ExposureKey(row[0], row[1]): row[2] for row in left}
