"""SQL on subscriptions and decisions; each function runs one statement, whatever the number of signals."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from tradesaga.infra.ledger.instruments import read_instrument
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.trade.routing import RATE_WINDOW, Subscription

_FOLLOWERS: Final = """
SELECT s.strategy, s.symbol AS signal_symbol, s.account, s.size_factor, s.max_quantity AS most, s.max_notional,
    s.max_per_minute, s.max_age, s.enabled, a.id IS NOT NULL AS known, i.*
FROM signal_subscription s
LEFT JOIN account a ON a.id = s.account
LEFT JOIN instrument i ON i.venue = a.venue AND i.symbol = s.symbol
WHERE (s.strategy, s.symbol) IN (SELECT * FROM unnest($1::text[], $2::text[]))
ORDER BY s.strategy, s.symbol, s.account FOR NO KEY UPDATE OF s
"""
_DECIDED: Final = """
SELECT d.strategy, d.signal_id, d.account FROM signal_decision d
JOIN unnest($1::text[], $2::text[]) AS t (strategy, signal_id) USING (strategy, signal_id)
"""
_LATELY: Final = f"""
SELECT d.strategy, d.symbol, d.account, d.recorded_at FROM signal_decision d
JOIN unnest($1::text[], $2::text[]) AS t (strategy, symbol) USING (strategy, symbol)
WHERE d.decision = 'accepted' AND d.recorded_at > $3::timestamptz - interval '{RATE_WINDOW} seconds'
"""
_WRITE: Final = """
INSERT INTO signal_decision (strategy, signal_id, account, symbol, decision, reason, detail, saga_id, recorded_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::uuid[],
    $9::timestamptz[])
"""
_SUBSCRIBE: Final = """
INSERT INTO signal_subscription (strategy, symbol, account, size_factor, max_quantity, max_notional, max_per_minute,
    max_age, enabled)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (strategy, symbol, account) DO UPDATE SET size_factor = excluded.size_factor,
    max_quantity = excluded.max_quantity, max_notional = excluded.max_notional,
    max_per_minute = excluded.max_per_minute, max_age = excluded.max_age, enabled = excluded.enabled,
    updated_at = clock_timestamp()
RETURNING *
"""
_LIST: Final = """
SELECT s.*, coalesce(d.accepted, 0) AS accepted, coalesce(d.refused, 0) AS refused FROM signal_subscription s
LEFT JOIN (
    SELECT strategy, symbol, account, count(*) FILTER (WHERE decision = 'accepted') AS accepted,
        count(*) FILTER (WHERE decision = 'refused') AS refused
    FROM signal_decision GROUP BY strategy, symbol, account
) d USING (strategy, symbol, account) ORDER BY s.strategy, s.symbol, s.account
"""


class Stream(NamedTuple):
    """A strategy's signals in one symbol."""

    strategy: str
    symbol: str


class DecisionKey(NamedTuple):
    """The key of a decision: one signal and one account."""

    strategy: str
    signal_id: str
    account: str


@dataclass(frozen=True, slots=True)
class Decision:
    """A row of `signal_decision`, in the order of its columns."""

    strategy: str
    signal_id: str
    account: str
    symbol: str
    decision: str
    reason: str
    detail: str
    saga_id: UUID | None
    recorded_at: datetime


async def load_followers(sql: Connection, streams: Collection[Stream]) -> Mapping[Stream, Sequence[Subscription]]:
    """Return the subscriptions to these streams, and lock them, so that limits hold even with two routers."""
    found: dict[Stream, list[Subscription]] = {stream: [] for stream in streams}
    for row in await sql.fetch(_FOLLOWERS, *_columns(streams)):
        found[Stream(row["strategy"], row["signal_symbol"])].append(_read(row))
    return found


async def load_decided(sql: Connection, signals: Collection[tuple[str, str]]) -> set[DecisionKey]:
    """Return the keys of the decisions on these signals, given as (strategy, id)."""
    rows = await sql.fetch(_DECIDED, *_columns(signals))
    return {DecisionKey(*row) for row in rows}


async def load_accepted(
    sql: Connection, streams: Collection[Stream], since: datetime
) -> Mapping[tuple[Stream, str], list[datetime]]:
    """Return when signals were accepted, by stream and account, from a minute before `since` on."""
    found: dict[tuple[Stream, str], list[datetime]] = {}
    for row in await sql.fetch(_LATELY, *_columns(streams), since):
        found.setdefault((Stream(row["strategy"], row["symbol"]), row["account"]), []).append(row["recorded_at"])
    return found


async def write_decisions(sql: Connection, decisions: Collection[Decision]) -> None:
    """Write decisions."""
    names = [field.name for field in fields(Decision)]
    await sql.execute(_WRITE, *([getattr(decision, name) for decision in decisions] for name in names))


async def write_subscription(sql: Connection, stream: Stream, subscription: Subscription) -> dict[str, Any]:
    """Write a subscription; it replaces the earlier one of the account."""
    limits = (subscription.max_quantity, subscription.max_notional, subscription.max_per_minute, subscription.max_age)
    row = (*stream, subscription.account, subscription.size_factor, *limits, subscription.enabled)
    (written,) = await sql.fetch(_SUBSCRIBE, *row)
    return dict(written)


async def list_subscriptions(sql: Connection) -> list[dict[str, Any]]:
    """Return all subscriptions, with the numbers of accepted and refused signals."""
    return [dict(row) for row in await sql.fetch(_LIST)]


def _read(row: asyncpg.Record) -> Subscription:
    return Subscription(
        account=row["account"],
        size_factor=row["size_factor"],
        max_quantity=row["most"],
        max_notional=row["max_notional"],
        max_per_minute=row["max_per_minute"],
        max_age=row["max_age"],
        enabled=row["enabled"],
        known=row["known"],
        instrument=read_instrument(row) if row["symbol"] else None,
    )


def _columns(pairs: Collection[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [first for first, _ in pairs], [second for _, second in pairs]
