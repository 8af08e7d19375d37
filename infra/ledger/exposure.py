"""What accounts have at risk in open orders: one row per account and quote asset, locked in key order."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import NamedTuple

from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.trade.exposure import Exposure, Limits

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


class Key(NamedTuple):
    """Whose exposure, in which quote asset."""

    account: str
    asset: str


async def lock_exposures(sql: Connection, keys: Iterable[Key]) -> dict[Key, tuple[Limits, Exposure]]:
    """Lock these rows until the transaction ends, made where they were missing; with each account's limits."""
    ordered = sorted(set(keys))
    columns = [key.account for key in ordered], [key.asset for key in ordered]
    await sql.execute(_OPEN, *columns)
    rows = await sql.fetch(_LOCK, *columns)
    return {
        Key(row[0], row[1]): (Limits(row[4], row[5], row[6]), Exposure(row[2], row[3])) for row in rows
    }  # fmt: skip


async def set_exposures(sql: Connection, exposures: Mapping[Key, Exposure]) -> None:
    """Write exposures whose rows are locked."""
    if exposures:
        rows = [(*key, now.notional, now.open_orders) for key, now in exposures.items()]
        await sql.execute(_SET, *(list(column) for column in zip(*rows, strict=True)))


async def take_out(sql: Connection, orders: Iterable[tuple[Key, Decimal]]) -> dict[Key, Decimal]:
    """Remove orders from the exposure they were counted in; return the remaining exposure."""
    rows = [(*key, notional) for key, notional in orders]
    if not rows:
        return {}
    left = await sql.fetch(_TAKE_OUT, *(list(column) for column in zip(*rows, strict=True)))
    return {Key(row[0], row[1]): row[2] for row in left}
