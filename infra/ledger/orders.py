"""The order register: what was validated, and how far each order has come."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from tradesaga.infra.ledger.instruments import read_instrument
from tradesaga.infra.postgres.database import Connection
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
class Listing:
    """What an order's account and symbol are known as; None where they are not known."""

    venue: str | None
    status: str | None
    instrument: Instrument | None


@dataclass(frozen=True, slots=True)
class Registration:
    """A valid order, to be entered."""

    saga_id: UUID
    request: TradeRequested
    venue: str
    quote: str
    terms: Terms


async def find_listings(sql: Connection, requests: Sequence[TradeRequested]) -> list[Listing]:
    """Return the account and instrument of each request, in the order of the requests."""
    rows = await sql.fetch(_FIND, [one.account for one in requests], [one.symbol for one in requests])
    return [
        Listing(row["account_venue"], row["account_status"], read_instrument(row) if row["symbol"] else None)
        for row in rows
    ]


async def register(sql: Connection, orders: Sequence[Registration]) -> None:
    """Enter valid orders."""
    if orders:
        await sql.execute(_REGISTER, *(list(column) for column in zip(*map(_row, orders), strict=True)))


async def mark(sql: Connection, saga_ids: Iterable[UUID], status: Status) -> None:
    """Note how far these orders have come."""
    if wanted := list(saga_ids):
        await sql.execute(_MARK, wanted, status)


def _row(order: Registration) -> tuple[Any, ...]:
    request, terms = order.request, order.terms
    return (
        order.saga_id, request.account, order.venue, request.symbol, request.side.value, request.quantity,
        request.order_type.value, request.limit_price, terms.worst_price, request.time_in_force.value,
        order.quote, terms.hold_asset, terms.hold, terms.notional,
    )  # fmt: skip
