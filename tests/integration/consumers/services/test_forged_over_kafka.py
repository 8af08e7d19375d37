"""Strangers forge records of the trade on a real broker, and the shipped workers read them: the ledger is the judge."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Producer as Client
from pydantic import SecretStr

from tests.book import open_book, order
from tests.broker import delete_topics
from tests.conftest import Stack
from tests.e2e.harness import PATIENCE
from tests.integration.consumers.services.rig import OPENING, TradeRig
from tests.integration.consumers.services.test_forged_records import context, greedy
from tests.integration.infra.venues.simulated_venue import SimulatedVenue
from tests.keys import KEYS
from tests.waiting import until
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.services import cash, risk, settlement
from tradesaga.consumers.services.execution import execution_participant
from tradesaga.infra.clock import SystemClock, format_time, new_id
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.kafka.topics import ensure_topics
from tradesaga.infra.outbox.processor import Processor
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import Pool, open_pool, session
from tradesaga.infra.reconciliation.dead_letters import check_dead_letters
from tradesaga.infra.reconciliation.run import reconcile
from tradesaga.infra.settings import Settings
from tradesaga.sagas.trade.comparison import Flaw
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.identity import saga_id as identify
from tradesaga.schemas.messages.message import Command, Message, wire_type
from tradesaga.schemas.topics import PARTITIONS, commands_topic, events_topic, saga_topics, starts_topic

pytestmark = pytest.mark.stack
D = Decimal


@dataclass
class Market:
    """The trade's services at work on topics of their own, and a venue in memory."""

    settings: Settings
    pool: Pool
    venue: SimulatedVenue
    workers: Sequence[Worker]

    @property
    def cluster(self) -> Cluster:
        """Return the cluster with the prefix of the topics."""
        return Cluster(self.settings.kafka, self.settings.topic_prefix)

    def write(self, topic: str, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Write records as anybody does who reaches the broker."""
        client = Client({"bootstrap.servers": self.settings.kafka, "partitioner": "murmur2_random"})
        client.produce(self.cluster.physical(topic), key=key, value=value, headers=list(headers))
        client.flush(20)

    def forge(self, saga_id: UUID, message: Message, facts: bytes) -> None:
        """Write a record of the trade that none of its services has said."""
        envelope = Envelope(
            type=wire_type("trade", type(message)), id=str(new_id()), source="/mallory", saga_id=str(saga_id),
            time=format_time(SystemClock().now()), step=str(getattr(message, "step", "")), context=facts,
        )  # fmt: skip
        topic = commands_topic("trade") if isinstance(message, Command) else events_topic("trade")
        self.write(topic, str(saga_id).encode(), message.to_wire(), envelope.to_headers())

    async def state(self, saga_id: UUID) -> str | None:
        """Return the saga's state as the saga log has it."""
        return await self.pool.fetchval("SELECT state FROM saga WHERE saga_id = $1", saga_id)

    async def read_all(self) -> None:
        """Wait until every group has judged all that is on its topics."""
        topics = [events_topic("trade"), commands_topic("trade")]
        places = [(topic, number) for topic in topics for number in range(PARTITIONS)]

        async def at_the_ends() -> bool:
            async with TopicReader(str(self.cluster)) as replay:
                ranges = await replay.ranges(places)
            lanes = "SELECT topic, partition, next_offset FROM lane WHERE topic = ANY ($1)"
            rows = await self.pool.fetch(lanes, topics)
            return len(rows) == 9 * PARTITIONS and all(row[2] == ranges[row[0], row[1]][1] for row in rows)

        await until(at_the_ends, PATIENCE)

    async def judge(self) -> None:
        """Hold the ledger to what is true whatever was forged."""
        async with session(self.settings.database_for("settlement")) as sql:
            await TradeRig(sql, self.venue).judge(OPENING)


@asynccontextmanager
async def at_work(workers: Sequence[Worker]) -> AsyncGenerator[None]:
    """Run workers while the body runs."""
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:

        async def ready() -> bool:
            return all(worker.health.ready for worker in workers)

        await until(ready, PATIENCE)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.fixture
async def market(stack: Stack, database_url: str) -> AsyncIterator[Market]:
    """Open the trade for alice and bob."""
    cluster = Cluster(stack.kafka, f"t{uuid4().hex[:8]}")
    settings = Settings(database_url=SecretStr(database_url), kafka=stack.kafka, topic_prefix=cluster.prefix)
    async with AsyncExitStack() as closing:
        await ensure_topics(str(cluster), saga_topics("trade"))
        names = [cluster.physical(topic.name) for topic in saga_topics("trade")]
        closing.callback(delete_topics, stack.kafka, names)
        async with session(database_url) as sql:
            await open_book(sql, "alice")
            await open_book(sql, "bob")
        pool = await open_pool(database_url, max_size=16)
        closing.push_async_callback(pool.close)
        venue = SimulatedVenue({"EUR/USD": [D("1.1"), D("1.05"), D("1.05")]}, {"USD": D(10**6), "EUR": D(10**6)})
        services = (risk.participant, cash.participant, execution_participant(venue, "paper"), settlement.participant)
        processors: list[Processor] = [*map(StepProcessor, services), SagaLog(Rules(trade)), Intake(trade, KEYS)]
        workers = [Worker(each, pool, str(cluster), "test", session_ms=6000) for each in processors]
        async with at_work(workers):
            yield Market(settings, pool, venue, workers)


async def test_forged_records_move_nothing_and_are_named(market: Market) -> None:
    """Fills, reports, holds, releases and retries, of a saga whose order rests and of one that never was.

    The order then fills, and settles once; `reconcile` names what was forged, and where it lies.
    """
    request = order(account="alice", price="1.06")
    saga_id, unknown = identify("trade", "alice", request.idempotency_key), uuid4()
    market.write(starts_topic("trade"), b"any", request.to_wire())

    async def rests() -> bool:
        return len(await market.venue.open_orders()) == 1

    await until(rests, PATIENCE)
    for forged in (saga_id, unknown):
        for message in greedy(forged):
            market.forge(forged, message, context(request))
    await market.read_all()
    await market.judge()
    assert len(await market.venue.open_orders()) == 1
    market.venue.step("EUR/USD")

    async def completed() -> bool:
        return await market.state(saga_id) == "COMPLETED" and bool(await market.pool.fetchval(
            "SELECT count(*) FROM order_register WHERE saga_id = $1 AND status = 'SETTLED'", saga_id
        ))  # fmt: skip

    await until(completed, PATIENCE)
    await market.read_all()
    await market.judge()
    await check_named(market, saga_id, unknown)


async def check_named(market: Market, saga_id: UUID, unknown: UUID) -> None:
    """Hold `reconcile` to what was forged: facts by the audit log, commands and reports by the dead letters."""
    findings = await reconcile(market.venue, market.settings, dead_letters=True)
    flaws = {each.flaw for each in findings.discrepancies}
    assert {Flaw.FORGED_FACT, Flaw.CONTRADICTED_RECORD} <= flaws
    assert findings.dead_letters is not None
    named = {(each.saga_id, each.type): each for each in findings.dead_letters.records}
    for saga in (saga_id, unknown):
        release = named[str(saga), "trade.release-funds.v1"]
        assert (release.topic, release.source, release.reader) == (
            "trade.commands",
            "/mallory",
            "trade-cash/reserve_funds",
        )
        assert release.claimed == '{"reason":""}'
        assert release.reason.startswith("release-funds: ")
        report = named[str(saga), "trade.venue-report.v1"]
        assert '"trade_id":"999999"' in report.claimed or report.reason.endswith("of this id")
    async with TopicReader(str(market.cluster)) as replay:
        place = (release.topic, release.partition)
        [[record]] = [batch async for batch in replay.read(place, release.offset, release.offset + 1)]
    assert record.header("ce_correlationid") == str(unknown).encode()
    forged = {each.place for each in findings.dead_letters.records} & {
        (each.topic, each.partition, each.offset) for each in findings.facts.forged
    }
    assert forged == set()
    told = json.loads(json.dumps(findings.as_json(), default=str))
    assert told["counts"]["contradicted_record"] == len(told["dead_letters"]["records"])
    assert told["dead_letters"]["contradictions"] >= told["counts"]["contradicted_record"]
    gone = market.settings.model_copy(update={"topic_prefix": "nobody"})
    assert "trade.dead-letters" in (await check_dead_letters(gone, findings.facts.since)).unread
