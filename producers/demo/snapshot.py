"""Snapshot that the checks examine: copies of the venue's ledger, PostgreSQL's rows and the topics' records."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.request import Request, urlopen
from uuid import UUID

import orjson
from pydantic import TypeAdapter

from tradesaga.infra.kafka.admin import count_partitions, read_topic
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.sagas.facts import Fact, Vocabulary
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.amounts import format_decimal
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.messages.trade import MESSAGES, Side, TradeRequested

Rows = list[dict[str, Any]]

SOURCES: Final = ("venue", "tables", "records", "run")

_MESSAGES: Final = {message.NAME: message for message in MESSAGES}


class TopicRecord(NamedTuple):
    """A record of a topic."""

    topic: str
    partition: int
    offset: int
    headers: dict[str, str]
    value: str

    @property
    def type(self) -> str:
        """The wire type."""
        return self.headers.get("ce_type", "")

    @property
    def saga_id(self) -> str:
        """The id of its saga."""
        return self.headers.get("ce_correlationid", "")

    @property
    def digest(self) -> str:
        """The SHA-256 of the value."""
        return hashlib.sha256(self.value.encode()).hexdigest()

    def payload(self) -> dict[str, Any]:
        """Parse the value."""
        return orjson.loads(self.value)


@dataclass
class RunData:
    """Data of the run: deposits, sums of the ledger sampled during it, and the result of the audit."""

    opening: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    samples: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    wanted: int = 0
    audit: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class Snapshot:
    """All sources, read when nothing changes any more."""

    venue: dict[str, Any]
    tables: dict[str, Rows]
    records: list[TopicRecord]
    run: RunData

    @cached_property
    def events(self) -> list[TopicRecord]:
        """The facts, ordered by partition and offset."""
        return sorted(
            (record for record in self.records if record.topic == "trade.events"),
            key=lambda record: (record.topic, record.partition, record.offset),
        )

    @property
    def is_of_one_moment(self) -> bool:
        """Whether nothing changed while audit, tables and topics were read one after the other.

        A lasting difference is also in the last snapshot, and is found by the checks.
        """
        return self.run.audit["rows"] == len(self.tables["saga_event"]) == len(self.events)

    @cached_property
    def events_by_saga(self) -> dict[str, list[TopicRecord]]:
        """The records of facts by saga, in order."""
        found: dict[str, list[TopicRecord]] = {}
        for record in self.events:
            found.setdefault(record.saga_id, []).append(record)
        return found

    @cached_property
    def facts(self) -> dict[str, list[Fact]]:
        """The facts by saga, in order."""
        vocabulary = Vocabulary(trade)
        return {
            saga_id: [
                vocabulary.read(
                    record.type, record.headers["ce_id"], record.headers.get("ts_step", ""),
                    int(record.headers.get("ts_round", "1")), record.value.encode(),
                )
                for record in story
            ]
            for saga_id, story in self.events_by_saga.items()
        }  # fmt: skip

    @cached_property
    def starts(self) -> dict[str, TradeRequested]:
        """The requests by saga."""
        kind = wire_type(trade.name, TradeRequested)
        return {
            record.saga_id: TradeRequested.from_wire(record.value.encode())
            for record in self.events
            if record.type == kind
        }

    def payload_of(self, saga_id: str, name: str) -> dict[str, Any] | None:
        """Return the payload of the saga's first fact with this name."""
        kind = wire_type(trade.name, _MESSAGES[name])
        return next((record.payload() for record in self.events_by_saga.get(saga_id, ()) if record.type == kind), None)

    @cached_property
    def trades(self) -> dict[str, Rows]:
        """The venue's trades by client order id."""
        orders = {order["id"]: order["client_order_id"] for order in self.venue["orders"]}
        found: dict[str, Rows] = {}
        for each in self.venue["trades"]:
            found.setdefault(orders.get(each["order_id"], f"no order {each['order_id']}"), []).append(each)
        return found

    def save(self, folder: Path) -> None:
        """Write each source to a file."""
        folder.mkdir(parents=True, exist_ok=True)
        values = _SNAPSHOT.dump_python(self, mode="json")
        for source in SOURCES:
            (folder / f"{source}.json").write_bytes(orjson.dumps(values[source]))

    @classmethod
    def load(cls, folder: Path) -> "Snapshot":
        """Read a saved snapshot."""
        sources = {source: orjson.loads((folder / f"{source}.json").read_bytes()) for source in SOURCES}
        return _SNAPSHOT.validate_python(sources)


_SNAPSHOT: Final = TypeAdapter(Snapshot)


def net_amounts(request: TradeRequested, fills: Rows) -> dict[str, Decimal]:
    """Return the net amounts of these fills for their account by asset, including fees."""
    base, quote = request.symbol.split("/")
    sign = 1 if request.side is Side.BUY else -1
    totals: dict[str, Decimal] = {base: Decimal(0), quote: Decimal(0)}
    for fill in fills:
        quantity, price = Decimal(fill["quantity"]), Decimal(fill["price"])
        totals[base] += sign * quantity
        totals[quote] -= sign * quantity * price
        totals[fill["fee_asset"]] = totals.get(fill["fee_asset"], Decimal(0)) - Decimal(fill["fee"])
    return totals


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


async def take_snapshot(kafka: str, database_url: str, venue_url: str, admin_key: str, run: RunData) -> Snapshot:
    """Read all sources; nothing should change while they are read."""
    venue = await asyncio.to_thread(read_venue, venue_url, admin_key)
    async with session(database_url) as sql, sql.transaction(isolation="repeatable_read", readonly=True):
        tables = {name: [_plain(dict(row)) for row in await sql.fetch(query)] for name, query in TABLES.items()}
    records = [record for topic in TOPICS for record in await read_records(kafka, topic)]
    return Snapshot(venue, tables, records, run)


async def read_records(kafka: str, topic: str) -> list[TopicRecord]:
    """Read a topic up to its present end."""
    counts = await count_partitions(kafka, [topic])
    return [
        TopicRecord(
            record.topic, record.partition, record.offset,
            {name: (value or b"").decode("utf-8", "backslashreplace") for name, value in record.headers},
            record.value.decode("utf-8", "backslashreplace"),
        )
        async for record in read_topic(kafka, topic, counts[topic])
    ]  # fmt: skip


async def sum_ledger(sql: Connection) -> dict[str, str]:
    """Return the sums of the ledger by asset, read in one transaction."""
    async with sql.transaction(isolation="repeatable_read", readonly=True):
        return {row["asset"]: format_decimal(row["total"]) for row in await sql.fetch(_SUMS)}


def read_venue(url: str, admin_key: str) -> Any:
    """Read the paper venue's whole ledger. Raises OSError if the venue does not answer."""
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
