# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateImportUsage=false
"""All that the judge looks at, read when everything is quiet: the clients, PostgreSQL, the topics, the exchange."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import asyncpg
import orjson
from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.faults.exchange import ask
from tests.faults.history import History
from tests.faults.saga import NAME
from tradesaga.infra.failpoints import Failpoint
from tradesaga.infra.kafka.codec import Record
from tradesaga.schemas.topics import PARTITIONS, commands_topic, dead_letters_topic, events_topic, starts_topic

Place = tuple[str, int]
Rows = list[dict[str, Any]]
EVENTS: Final = events_topic(NAME)
COMMANDS: Final = commands_topic(NAME)
DEAD: Final = dead_letters_topic(NAME)
TOPICS: Final = (EVENTS, COMMANDS, DEAD)
PATIENCE: Final = 60.0
"""Seconds that reading the topics may take."""
GROUPS: Final = ("desk", "market", "log", "intake")
QUERIES: Final = {
    "sagas": "SELECT saga_id::text, version, state, completed_steps, compensated_steps, seq, head FROM saga",
    "audit": 'SELECT topic, partition, "offset", saga_id::text, seq, hash, sha256(value) AS digest, writer_epoch'
    ' FROM saga_event ORDER BY topic, partition, "offset"',
    "outbox": "SELECT lane, seq, id::text, aggregatetype AS topic, aggregateid AS key, type,"
    f" CASE WHEN aggregatetype = '{DEAD}' THEN headers END AS headers FROM outbox ORDER BY lane, seq",
    "lanes": 'SELECT id, "group", topic, partition, epoch, next_offset, last_seq, published_seq FROM lane',
    "parked": 'SELECT "group", topic, partition, "offset", saga_id::text, reason, released FROM parked',
    "started": "SELECT saga_id::text FROM start_request",
    "effects": "SELECT id, saga_id::text, step, direction, amount FROM drill_effect ORDER BY id",
    "holds": "SELECT saga_id::text, amount FROM drill_hold",
    "accounts": "SELECT account, free FROM drill_account",
    "due": "SELECT saga_id::text, step, status FROM step_execution WHERE due IS NOT NULL",
}


@dataclass
class Fault:
    """One thing that was broken; times are seconds since the run began, `progress` when sagas ended again after it."""

    phase: str
    name: str
    began: float
    ended: float = 0.0
    progress: float | None = None


@dataclass
class Sample:
    """The money at one moment: its sum, and how many accounts are below zero."""

    total: str
    negative: int = 0


@dataclass
class Notes:
    """What the run itself remembers; `planted` gives the kind of each poison by its `ce_id`."""

    money: str = "0"
    faults: list[Fault] = field(default_factory=list[Fault])
    samples: list[Sample] = field(default_factory=list[Sample])
    planted: dict[str, str] = field(default_factory=dict[str, str])
    strangers: set[str] = field(default_factory=set[str])
    """Sagas that only the run has spoken of, or spoken nonsense of: their dead letters are expected."""
    fenced: int = 0
    fallen: dict[str, int] = field(default_factory=dict[str, int])
    peak_mb: dict[str, float] = field(default_factory=dict[str, float])
    growth: dict[str, float] = field(default_factory=dict[str, float])
    """MB a minute, at most, of each process that has lived long enough to tell."""
    lag_ms: dict[str, float] = field(default_factory=dict[str, float])
    """The event loop's usual lag."""
    replayed: int = 0
    barred: int = 0
    refused_large: int = 0
    swallowed: int = 0
    clusters: bool = False
    failovers: list[int] = field(default_factory=list[int])
    """How many starts clients had been told are in each time when a standby took over."""
    moves: int = 0
    """How often a partition got another leader."""
    too_few: int = 0
    """How often the brokers refused a record because too few of them hold it."""
    untried: list[str] = field(default_factory=list[str])
    """What this machine does not let the run break."""
    mixed_versions: bool = False
    drained: float | None = None
    limit: float = 60.0
    """Seconds that progress may take to come back."""

    def missed(self) -> list[str]:
        """Name the failpoints at which nobody has died."""
        return [place.value for place in Failpoint if not self.fallen.get(place.value)]

    def idle(self) -> list[str]:
        """Name what was meant to happen and never did."""
        counted = {"unheard commits": self.swallowed, "replayed records": self.replayed, "early bars": self.barred}
        if self.clusters:
            counted |= {"fail-overs": len(self.failovers), "moves of leaders": self.moves}
            counted |= {"writes refused for too few copies": self.too_few}
        return [name for name, count in counted.items() if not count]


@dataclass
class Evidence:
    """One quiet moment of all sources."""

    history: History
    tables: dict[str, Rows]
    records: list[Record]
    ends: dict[Place, int]
    committed: dict[tuple[str, str, int], int]
    orders: dict[str, tuple[str, int]]
    calls: list[tuple[str, str, int]]
    notes: Notes

    @property
    def sagas(self) -> dict[str, dict[str, Any]]:
        """Give the rows of the sagas by id."""
        return {row["saga_id"]: row for row in self.tables["sagas"]}


async def collect(kafka: str, database_url: str, exchange: str, history: History, notes: Notes) -> Evidence:
    """Read everything."""
    tables = await read_tables(database_url)
    records = await asyncio.to_thread(read_topics, kafka)
    ends, committed = await asyncio.to_thread(read_offsets, kafka)
    told = await ask(exchange, kind="dump")
    orders = {key: (state, placed) for key, state, placed in told["orders"]}
    calls = [(kind, key, attempt or 0) for kind, key, attempt in told["calls"]]
    return Evidence(history, tables, records, ends, committed, orders, calls, notes)


async def read_tables(database_url: str) -> dict[str, Rows]:
    """Read the tables as of one moment."""
    sql = await asyncpg.connect(database_url, timeout=10)
    try:
        async with sql.transaction(isolation="repeatable_read", readonly=True):
            found = {name: [_plain(dict(row)) for row in await sql.fetch(query)] for name, query in QUERIES.items()}
    finally:
        await sql.close()
    return found


def read_offsets(kafka: str) -> tuple[dict[Place, int], dict[tuple[str, str, int], int]]:
    """Give where each partition ends, and what each group has committed to Kafka."""
    ends: dict[Place, int] = {}
    committed: dict[tuple[str, str, int], int] = {}
    topics = (EVENTS, COMMANDS, starts_topic(NAME))
    places = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
    for group in GROUPS:
        consumer = Consumer({"bootstrap.servers": kafka, "group.id": f"{NAME}-{group}", "log_level": 0})
        try:
            for place in consumer.committed(places, timeout=20):
                if place.offset >= 0:
                    committed[f"{NAME}-{group}", place.topic, place.partition] = place.offset
            if not ends:
                for place in places:
                    ends[place.topic, place.partition] = _find_end(consumer, place)
        finally:
            consumer.close()
    return ends, committed


def read_topics(kafka: str, names: Sequence[str] = TOPICS) -> list[Record]:
    """Read topics up to where they end now, with a client that shares no line with ours."""
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": uuid4().hex, "enable.auto.commit": False, "log_level": 0}
    )
    places = [TopicPartition(topic, number, 0) for topic in names for number in range(PARTITIONS)]
    records: list[Record] = []
    try:
        ends = {(place.topic, place.partition): _find_end(consumer, place) for place in places}
        open_ = {place for place, end in ends.items() if end}
        consumer.assign(places)
        until = time.monotonic() + PATIENCE
        while open_:
            if time.monotonic() > until:
                raise TimeoutError(f"the topics could not be read to their ends within {PATIENCE:.0f} s")
            for message in consumer.consume(2000, timeout=1):
                if (error := message.error()) is not None:
                    raise KafkaException(error)
                record = _read(message)
                place = record.topic, record.partition
                if record.offset < ends[place]:
                    records.append(record)
                if record.offset + 1 >= ends[place]:
                    open_.discard(place)
    finally:
        consumer.close()
    records.sort(key=lambda record: (record.topic, record.partition, record.offset))
    return records


def _find_end(consumer: Any, place: TopicPartition) -> int:
    """Ask where a partition ends, again if need be: a broker that has just come back is not its leader at once."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return consumer.get_watermark_offsets(place, timeout=20)[1]
        except KafkaException:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _read(message: Any) -> Record:
    return Record(
        message.topic(), message.partition(), message.offset(), message.timestamp()[1], message.key(),
        message.value() or b"", [(name, bytes(value or b"")) for name, value in message.headers() or ()],
    )  # fmt: skip


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    for name in ("completed_steps", "compensated_steps"):
        if name in row:
            row[name] = orjson.loads(row[name])
    return row
