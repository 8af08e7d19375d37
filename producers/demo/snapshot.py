"""What the checks look at: plain copies of the venue's ledger, of PostgreSQL's rows and of the topics' records."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, cast
from urllib.request import Request, urlopen
from uuid import UUID

import orjson

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


class Said(NamedTuple):
    """One record of a topic."""

    topic: str
    partition: int
    offset: int
    headers: dict[str, str]
    value: str

    @property
    def type(self) -> str:
        """Return the wire type."""
        return self.headers.get("ce_type", "")

    @property
    def saga_id(self) -> str:
        """Return the saga it belongs to."""
        return self.headers.get("ce_correlationid", "")

    @property
    def digest(self) -> str:
        """Return SHA-256 of the value."""
        return hashlib.sha256(self.value.encode()).hexdigest()

    def payload(self) -> dict[str, Any]:
        """Read the value."""
        return orjson.loads(self.value)


@dataclass
class Run:
    """What the run itself remembers: paid-in balances, the ledger's sums sampled meanwhile, and the audit's verdict."""

    opening: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    samples: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    wanted: int = 0
    audit: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class Snapshot:
    """One moment of all sources, taken when everything is quiet."""

    venue: dict[str, Rows]
    tables: dict[str, Rows]
    records: list[Said]
    run: Run

    @cached_property
    def events(self) -> list[Said]:
        """Return the facts, partition by partition in offset order."""
        return sorted((said for said in self.records if said.topic == "trade.events"), key=_place)

    @property
    def is_of_one_moment(self) -> bool:
        """Return whether nothing changed while audit, tables and topics were read one after the other.

        A lasting difference shows in the last look too, and is checked there.
        """
        return self.run.audit["rows"] == len(self.tables["saga_event"]) == len(self.events)

    @cached_property
    def stories(self) -> dict[str, list[Said]]:
        """Return the facts by saga, in order."""
        found: dict[str, list[Said]] = {}
        for said in self.events:
            found.setdefault(said.saga_id, []).append(said)
        return found

    @cached_property
    def facts(self) -> dict[str, list[Fact]]:
        """Return what the facts mean, by saga, in order."""
        vocabulary = Vocabulary(trade)
        return {
            saga_id: [
                vocabulary.read(
                    said.type, said.headers["ce_id"], said.headers.get("ts_step", ""),
                    int(said.headers.get("ts_round", "1")), said.value.encode(),
                )
                for said in story
            ]
            for saga_id, story in self.stories.items()
        }  # fmt: skip

    @cached_property
    def starts(self) -> dict[str, TradeRequested]:
        """Return each saga's request."""
        kind = wire_type(trade.name, TradeRequested)
        return {
            said.saga_id: TradeRequested.from_wire(said.value.encode()) for said in self.events if said.type == kind
        }

    def told(self, saga_id: str, name: str) -> dict[str, Any] | None:
        """Return the payload of the saga's first fact of this name."""
        kind = wire_type(trade.name, _MESSAGES[name])
        return next((said.payload() for said in self.stories.get(saga_id, ()) if said.type == kind), None)

    @cached_property
    def trades(self) -> dict[str, Rows]:
        """Return the venue's trades by client order id."""
        orders = {order["id"]: order["client_order_id"] for order in self.venue["orders"]}
        found: dict[str, Rows] = {}
        for each in self.venue["trades"]:
            found.setdefault(orders.get(each["order_id"], f"no order {each['order_id']}"), []).append(each)
        return found

    def save(self, folder: Path) -> None:
        """Write each source to a file of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {
            "venue": self.venue,
            "tables": self.tables,
            "records": [list(said) for said in self.records],
            "run": asdict(self.run),
        }
        for source in SOURCES:
            (folder / f"{source}.json").write_bytes(orjson.dumps(values[source]))

    @classmethod
    def load(cls, folder: Path) -> "Snapshot":
        """Read what `save` wrote."""
        venue, tables, records, run = (orjson.loads((folder / f"{source}.json").read_bytes()) for source in SOURCES)
        said = [Said(*record) for record in cast("list[list[Any]]", records)]
        return cls(venue, tables, said, Run(**run))


def _place(said: Said) -> tuple[str, int, int]:
    return said.topic, said.partition, said.offset


def moved(request: TradeRequested, fills: Rows) -> dict[str, Decimal]:
    """Return the net amounts these fills move for their account, by asset, fees included."""
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
