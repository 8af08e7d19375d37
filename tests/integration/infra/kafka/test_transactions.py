# pyright: reportUnknownMemberType=false, reportPrivateImportUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Strangers' Kafka transactions: what is committed counts, what is aborted or still open does not exist."""

import asyncio
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from uuid import uuid4

import asyncpg
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.integration.consumers.entry.test_start_intake import payload
from tests.integration.consumers.saga_log.rig import PARTITIONS, Rig, open_rig, ready
from tests.keys import KEYS
from tests.sagas import Filled, Held, OrderAsked, Placed, Settled, headers_of
from tests.waiting import until
from tradesaga.consumers.audit.replay.comparison import Comparison
from tradesaga.consumers.audit.replay.state import Identity, ReplayState
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.infra.kafka.admin import has_record, read_topic
from tradesaga.infra.kafka.connections import KafkaUnavailableError, Partition
from tradesaga.infra.kafka.consumer import Consumer
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.outbox import fetcher
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.starts.backpressure import INTAKE, PipelineLag
from tradesaga.schemas import identity
from tradesaga.schemas.envelope import Header

pytestmark = pytest.mark.stack
KEY = b"one partition"


@pytest.fixture
async def rig(kafka: str, database_url: str) -> AsyncIterator[Rig]:
    """Give a saga with topics and a database of its own."""
    async with open_rig(kafka, database_url) as rig:
        yield rig


@contextmanager
def transaction(kafka: str) -> Generator[Producer]:
    """Open a transaction of a client that shares no line with ours; it ends as the body says, or stays open."""
    client = Producer({"bootstrap.servers": kafka, "transactional.id": uuid4().hex, "partitioner": "murmur2_random"})
    client.init_transactions(20)
    client.begin_transaction()
    yield client
    client.flush(20)


def put(kafka: str, topic: str, values: list[bytes], *, commits: bool) -> None:
    """Send records in one transaction, and end it."""
    with transaction(kafka) as client:
        for value in values:
            client.produce(topic, key=KEY, value=value)
        client.flush(20)
        client.commit_transaction(20) if commits else client.abort_transaction(20)


async def offsets(rig: Rig) -> dict[Partition, int]:
    """Return where the intake's lanes stand."""
    rows = await rig.pool.fetch('SELECT topic, partition, next_offset FROM lane WHERE "group" = $1', _group(rig))
    return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}


def _group(rig: Rig) -> str:
    return f"{rig.saga.name}-intake"


async def ends(rig: Rig, topic: str) -> dict[Partition, int]:
    """Return the ends of a topic, control records included."""
    async with TopicReader(rig.kafka) as replay:
        found = await replay.ranges([(topic, number) for number in range(PARTITIONS)])
    return {place: end for place, (_, end) in found.items()}


async def at_the_end(rig: Rig) -> bool:
    """Return whether nothing is left for the intake, control records included."""
    return await offsets(rig) == await ends(rig, rig.topic("starts"))


@pytest.mark.parametrize("commits", [True, False])
async def test_a_start_counts_if_its_transaction_commits(rig: Rig, *, commits: bool) -> None:
    """Committed, it starts a saga; aborted, nothing; in both cases nobody is behind afterwards, and no more comes."""
    starts = rig.topic("starts")
    async with rig.running(Intake(rig.saga, KEYS)) as worker:
        await ready(worker)
        put(rig.kafka, starts, [payload("in a transaction")], commits=commits)
        await until(lambda: at_the_end(rig))
        assert await rig.pool.fetchval("SELECT count(*) FROM start_request") == int(commits)
        await asyncio.sleep(1)  # older than the limit below
        async with PipelineLag(rig.kafka, rig.saga.name, 0.1) as lag:
            assert await lag.find(rig.pool) == ""
        assert not await has_record(rig.kafka, await offsets(rig))
        worker.health.lag = 99  # until it is measured again
        await until(lambda: _lag_is(worker, 0))
        put(rig.kafka, starts, [payload("the next")], commits=True)
        await until(lambda: at_the_end(rig))
        assert await rig.pool.fetchval("SELECT count(*) FROM start_request") == int(commits) + 1


async def _lag_is(worker: Worker, lag: int) -> bool:
    return worker.health.lag == lag


@pytest.mark.parametrize("commits", [True, False])
async def test_control_records_close_no_door_while_the_reader_is_away(rig: Rig, *, commits: bool) -> None:
    """An intake that is down owes a committed start; what was aborted, and the markers, it owes to nobody."""
    async with rig.running(Intake(rig.saga, KEYS)) as worker:
        await ready(worker)
    put(rig.kafka, rig.topic("starts"), [payload("later")], commits=commits)
    await asyncio.sleep(1)
    async with PipelineLag(rig.kafka, rig.saga.name, 0.1, (INTAKE,)) as lag:
        assert ("behind" in await lag.find(rig.pool)) is commits
        assert ("behind" in await lag.find(rig.pool)) is commits


async def test_an_open_transaction_holds_up_its_own_partition_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts on other partitions are taken; a lag and a warning show the one, and no door closes for it."""
    monkeypatch.setattr(fetcher, "_COMMIT_EVERY", 0.2)
    monkeypatch.setattr(fetcher, "_HELD_LIMIT", 0.5)
    starts = rig.topic("starts")
    async with rig.running(Intake(rig.saga, KEYS)) as worker:
        await ready(worker)
        with transaction(rig.kafka) as client:
            client.produce(starts, key=KEY, value=payload("open"))
            client.flush(20)
            held = await rig.put(starts, KEY, payload("behind it"), [])
            for number in range(30):
                await rig.put(starts, b"%d" % number, payload(f"{number}"), [])
            others = sum(partition_of(b"%d" % number, PARTITIONS) != held.partition for number in range(30))
            await until(lambda: _started(rig, others))
            await until(lambda: _warned(worker, f"{starts}[{held.partition}]: "))
            assert worker.health.lag >= 2
            async with PipelineLag(rig.kafka, rig.saga.name, 0.1) as lag:
                assert await lag.find(rig.pool) == ""
            client.commit_transaction(20)
        await until(lambda: _started(rig, 32))
        await until(lambda: _warned(worker, ""))


async def _started(rig: Rig, count: int) -> bool:
    return await rig.pool.fetchval("SELECT count(*) FROM start_request") == count


async def _warned(worker: Worker, beginning: str) -> bool:
    return worker.health.warning.startswith(beginning) and bool(worker.health.warning) == bool(beginning)


async def test_deleted_records_are_no_lag(rig: Rig) -> None:
    """Starts that the broker has deleted cannot be delivered: no door stays closed for them."""
    async with rig.running(Intake(rig.saga, KEYS)) as worker:
        await ready(worker)
    record = await rig.put(rig.topic("starts"), KEY, payload("gone"), [])
    _delete_before(rig.kafka, record.topic, record.partition, record.offset + 1)
    await asyncio.sleep(1)
    async with PipelineLag(rig.kafka, rig.saga.name, 0.1) as lag:
        assert await lag.find(rig.pool) == ""


def _delete_before(kafka: str, topic: str, partition: int, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.delete_records([TopicPartition(topic, partition, offset)]).values():
        future.result()


async def test_records_deleted_unread_are_told(rig: Rig) -> None:
    """Reading does not go on behind what is gone without a word: the consumer raises, and the lane then halts."""
    starts = rig.topic("starts")
    records = [await rig.put(starts, KEY, payload(f"{number}"), []) for number in range(10)]
    place = (starts, records[0].partition)
    consumer = Consumer(rig.kafka, f"{rig.saga.name}-deleting", [starts], "test", 6000)

    async def ignore() -> None:
        """Take no notice of a rebalance."""

    await consumer.start(ignore, ignore)
    try:
        await until(lambda: _assigned(consumer))
        consumer.seek(place, records[5].offset)
        _delete_before(rig.kafka, *place, records[8].offset)
        consumer.seek(place, records[2].offset)
        with pytest.raises(KafkaUnavailableError, match="records from offset 2 to 8 were deleted unread"):
            await until(lambda: _polled(consumer))
    finally:
        await consumer.stop()


async def _assigned(consumer: Consumer) -> bool:
    return len(consumer.assignment()) == PARTITIONS


async def _polled(consumer: Consumer) -> bool:
    return any(each.records for each in (await consumer.poll(_every, 200, 100)).values())


def _every(topic: str, headers: Sequence[Header]) -> bool:
    return True


async def test_the_saga_log_and_its_replay_agree_over_transactions(rig: Rig) -> None:
    """Facts in a transaction are folded if it commits; replay passes the markers, those at the very end too."""
    committed, aborted = uuid4(), uuid4()
    story = (OrderAsked(idempotency_key="k", account="A"), Held(), Placed(), Filled(), Settled())
    async with rig.running() as worker:
        await ready(worker)
        for saga_id, commits in ((committed, True), (aborted, False)):
            with transaction(rig.kafka) as client:
                for event in story:
                    headers: list[tuple[str, str | bytes | None]] = [*headers_of(rig.saga, event, saga_id)]
                    client.produce(rig.topic("events"), key=str(saga_id), value=event.to_wire(), headers=headers)
                client.flush(20)
                client.commit_transaction(20) if commits else client.abort_transaction(20)
        await rig.reached(committed, "COMPLETED")
        await until(lambda: _passed(rig))
    assert await rig.saga_row(aborted) is None
    assert await rig.pool.fetchval("SELECT count(*) FROM saga_event") == len(story)
    async with TopicReader(rig.kafka) as replay:
        sql = await asyncpg.connect(rig.url)
        try:
            with ReplayState(None, Identity.of(rig.rules, "a cluster", "comparison"), rig.rules) as replay_state:
                report = await Comparison(sql, replay, rig.rules, replay_state).run()
        finally:
            await sql.close()
    assert (report.records, report.differing) == (len(story), 0)
    read = [record async for record in read_topic(rig.kafka, rig.topic("events"), PARTITIONS)]
    assert len(read) == len(story)


async def _passed(rig: Rig) -> bool:
    rows = await rig.pool.fetch(
        'SELECT topic, partition, next_offset FROM lane WHERE "group" = $1', f"{rig.saga.name}-log"
    )
    found = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
    return found == await ends(rig, rig.topic("events"))


async def test_identity_of_a_transactional_start(rig: Rig) -> None:
    """The same start, sent again outside a transaction, is the same saga."""
    async with rig.running(Intake(rig.saga, KEYS)), rig.running():
        put(rig.kafka, rig.topic("starts"), [payload("same")], commits=True)
        await rig.put(rig.topic("starts"), KEY, payload("same"), [])
        await rig.reached(identity.saga_id(rig.saga.name, "A", "same"), "IDLE")
        await until(lambda: at_the_end(rig))
    assert await _started(rig, 1)
