"""Reads what is compared: ended sagas, then the venue, then a snapshot of the ledger database."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import ValidationError

from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.saga_queries import QUERYABLE_CONTEXT
from tradesaga.sagas.trade.comparison import ENDED, BookView, Drift, SagaView, Traded, VenueView
from tradesaga.sagas.trade.orders import saga_of
from tradesaga.sagas.trade.postings import venue_owner
from tradesaga.sagas.trade.venue import OrderReport, VenuePort
from tradesaga.schemas.messages.trade import TradeFilled

_TRIES = 5
_SAGAS = f"""
SELECT saga_id, state, {QUERYABLE_CONTEXT} -> 'trade-filled' AS filled FROM saga
WHERE name = 'trade' AND state = ANY ($1)
"""
_BALANCES = """
SELECT a.owner || ' ' || a.asset || ' ' || a.kind, a.balance, coalesce(e.amount, 0) FROM ledger_account a
LEFT JOIN (SELECT owner, asset, kind, sum(amount) AS amount FROM ledger_entry GROUP BY owner, asset, kind) e
    ON (a.owner, a.asset, a.kind) = (e.owner, e.asset, e.kind)
WHERE a.balance <> coalesce(e.amount, 0)
"""
_EXPOSURES = """
SELECT e.account || ' ' || e.asset, e.exposure, coalesce(r.notional, 0) FROM risk_exposure e
LEFT JOIN (
    SELECT account, quote, sum(notional) AS notional, count(*) AS orders FROM order_register
    WHERE status = 'COUNTED' GROUP BY account, quote
) r ON (r.account, r.quote) = (e.account, e.asset)
WHERE (e.exposure, e.open_orders) <> (coalesce(r.notional, 0), coalesce(r.orders, 0))
"""
_HELD = """
SELECT saga_id, sum(amount) FROM ledger_entry WHERE kind = 'held' GROUP BY saga_id HAVING sum(amount) <> 0
"""
_AT_VENUE = """
SELECT asset, -sum(balance) FROM ledger_account WHERE owner = $1 AND kind IN ('clearing', 'fees') GROUP BY asset
"""


async def read_ended(sql: Connection) -> dict[UUID, SagaView]:
    """Read completed and aborted sagas; of FAILED ones nothing is certain."""
    rows = await sql.fetch(_SAGAS, sorted(ENDED))
    return {row["saga_id"]: SagaView(row["state"], _filled(row["filled"])) for row in rows}


async def read_venue(port: VenuePort) -> VenueView:
    """Read orders, trades and holdings; repeat a few times if the holdings change during it."""
    totals = await _totals(port)
    for _ in range(_TRIES):
        before, found = totals, await _read_orders(port)
        totals = await _totals(port)
        if totals == before:
            return replace(found, totals=totals)
    return await _read_orders(port)


async def _read_orders(port: VenuePort) -> VenueView:
    orders: dict[UUID, OrderReport] = {}
    traded: dict[UUID, Traded] = {}
    foreign: list[str] = []
    for symbol in await port.rules():
        trades = await port.trades_since(symbol)
        owners: dict[str, UUID] = {}
        for order in await port.orders_since(symbol):
            if (saga_id := saga_of(order.client_order_id)) is None:
                foreign.append(order.client_order_id)
            else:
                orders[saga_id], owners[order.venue_order_id] = order, saga_id
        for trade in trades:
            if (saga_id := owners.get(trade.venue_order_id)) is not None:
                traded.setdefault(saga_id, Traded()).add(trade)
    return VenueView(orders, traded, foreign, None)


async def _totals(port: VenuePort) -> dict[str, Decimal]:
    return {asset: held.free + held.locked for asset, held in (await port.balances()).items()}


async def read_book(sql: Connection, venue: str, marked: UUID) -> BookView:
    """Read a snapshot of the ledger database; `marked` is the booking of the opening stock."""
    async with sql.transaction(isolation="repeatable_read", readonly=True):
        settled = await sql.fetch("SELECT DISTINCT saga_id FROM ledger_entry WHERE step = 'settle_trade'")
        return BookView(
            statuses=_pairs(await sql.fetch("SELECT saga_id, status FROM order_register WHERE venue = $1", venue)),
            settled=frozenset(row[0] for row in settled),
            held=_pairs(await sql.fetch(_HELD)),
            sums=_pairs(await sql.fetch("SELECT asset, sum(balance) FROM ledger_account GROUP BY asset")),
            balances=[Drift(*row) for row in await sql.fetch(_BALANCES)],
            exposures=[Drift(*row) for row in await sql.fetch(_EXPOSURES)],
            at_venue=_pairs(await sql.fetch(_AT_VENUE, venue_owner(venue))),
            stocked=await sql.fetchval("SELECT EXISTS (SELECT FROM ledger_entry WHERE saga_id = $1)", marked),
        )


def _pairs(rows: Sequence[asyncpg.Record]) -> dict[Any, Any]:
    return {row[0]: row[1] for row in rows}


def _filled(text: str | None) -> TradeFilled | None:
    """Read the pivot's fact from the saga's context; None also if it cannot be read, as a forged one."""
    try:
        return None if text is None else TradeFilled.read(text.encode())
    except ValidationError:
        return None
