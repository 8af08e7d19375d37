"""Reads the sources for a snapshot: straight from venue, database and topics, past every service of ours."""

import asyncio
import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final
from urllib.request import Request, urlopen
from uuid import UUID

import orjson

from tradesaga.infra.kafka.admin import count_partitions, read_topic
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.producers.demo.snapshot import Run, Said, Snapshot
from tradesaga.schemas.amounts import format_decimal

ADMIN_HEADER: Final = "x-paper-admin"
TOPICS: Final = ("trade.events", "trade.commands")
TABLES: Final = {
    "start_request": "SELECT saga_id, request_hash FROM start_request",
    "signal_decision": "SELECT strategy, signal_id, account, decision, reason, saga_id FROM signal_decision",
    "saga": "SELECT saga_id, state, completed_steps, compensated_steps FROM saga",
    "saga_event": 'SELECT topic, partition, "offset", value FROM saga_event',
    "outbox": "SELECT id, type FROM outbox WHERE aggregatetype = ANY(ARRAY['trade.events', 'trade.commands'])",
    "ledger_account": "SELECT owner, asset, kind, balance FROM ledger_account",
    "ledger_entry": "SELECT saga_id, step, direction, owner, asset, kind, amount FROM ledger_entry",
    "risk_exposure": "SELECT account, asset, exposure, open_orders FROM risk_exposure",
}
_SUMS: Final = "SELECT asset, sum(balance) AS total FROM ledger_account GROUP BY asset"


async def take_snapshot(kafka: str, database_url: str, venue_url: str, admin_key: str, run: Run) -> Snapshot:
    """Read all sources; nothing should be moving."""
    venue = await asyncio.to_thread(read_venue, venue_url, admin_key)
    async with session(database_url) as sql, sql.transaction(isolation="repeatable_read", readonly=True):
        tables = {name: [_plain(dict(row)) for row in await sql.fetch(query)] for name, query in TABLES.items()}
    records = [said for topic in TOPICS for said in await read_records(kafka, topic)]
    return Snapshot(venue, tables, records, run)


async def read_records(kafka: str, topic: str) -> list[Said]:
    """Read a topic from its first record to the last one there now."""
    counts = await count_partitions(kafka, [topic])
    return [
        Said(
            record.topic, record.partition, record.offset,
            {name: (value or b"").decode("utf-8", "backslashreplace") for name, value in record.headers},
            record.value.decode("utf-8", "backslashreplace"),
        )
        async for record in read_topic(kafka, topic, counts[topic])
    ]  # fmt: skip


async def sum_ledger(sql: Connection) -> dict[str, str]:
    """Sum the ledger per asset, as of one moment."""
    async with sql.transaction(isolation="repeatable_read", readonly=True):
        return {row["asset"]: format_decimal(row["total"]) for row in await sql.fetch(_SUMS)}


def read_venue(url: str, admin_key: str) -> Any:
    """Read the paper venue's whole ledger; raises `OSError` when it does not answer."""
    request = Request(f"{url.rstrip('/')}/paper/ledger", headers={ADMIN_HEADER: admin_key})  # noqa: S310 - our own
    with urlopen(request, timeout=30) as response:  # noqa: S310
        return orjson.loads(response.read())


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {("digest" if name == "value" else name): _value(name, value) for name, value in row.items()}


def _value(name: str, value: Any) -> Any:
    if name == "value":
        return hashlib.sha256(value or b"").hexdigest()
    if name.endswith("_steps"):
        return orjson.loads(value)
    if isinstance(value, Decimal):
        return format_decimal(value)
    return str(value) if isinstance(value, UUID) else value
