# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateImportUsage=false
"""Database and topics that do not belong together: each group refuses before it joins, and leaves when it halts."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from tests.broker import delete_topics
from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.far import TABLES
from tests.e2e.harness import PATIENCE, Bench, Running, open_bench
from tests.keys import KEYS
from tests.waiting import until
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.clock import new_id
from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.kafka.topics import ensure_topics
from tradesaga.infra.outbox.batch_writer import OutboxTransaction
from tradesaga.infra.outbox.guard import read_owner
from tradesaga.infra.outbox.outbox_writer import NotWrittenError, OutboxWriter
from tradesaga.infra.outbox.ownership import unique_owner_name
from tradesaga.infra.outbox.processor import Processor
from tradesaga.infra.postgres.database import open_pool
from tradesaga.infra.postgres.installation import Identity, read_identity, set_installation
from tradesaga.schemas.topics import PARTITIONS, commands_topic, events_topic, installation_topic, saga_topics

pytestmark = pytest.mark.stack

BOTH = [("book", "forward"), ("pay", "forward")]
LONGEST = 15.0
"""Seconds within which a change of a topic has to be noticed, on a busy machine."""


@pytest.fixture
async def bench(kafka: str, database_url: str) -> AsyncIterator[Bench]:
    """Yield a bench with nothing running on it."""
    async with open_bench(kafka, database_url) as bench:
        yield bench


def processors(bench: Bench) -> list[Processor]:
    """Return every group of the saga."""
    return [
        StepProcessor(bench.kit.desk),
        StepProcessor(bench.kit.port),
        SagaLog(Rules(bench.saga)),
        Intake(bench.saga, KEYS),
    ]


async def halted(running: Running, patience: float = PATIENCE) -> str:
    """Wait until a worker has halted, and return its reason."""

    async def has_halted() -> bool:
        if running.task.done():
            running.task.result()
        return bool(running.worker.health.halted)

    await until(has_halted, patience)
    return running.worker.health.halted


async def members(kafka: str, group: str) -> int:
    """Count the members of a group, as an administrator sees it."""
    admin = AdminClient({"bootstrap.servers": kafka})
    found: Any = await asyncio.to_thread(admin.describe_consumer_groups([group])[group].result)
    return len(found.members)


async def left(kafka: str, group: str) -> None:
    """Wait until a group has no member."""

    async def gone() -> bool:
        return await members(kafka, group) == 0

    await until(gone, PATIENCE)


async def one_saga(bench: Bench) -> None:
    """Have one saga come to its end, and everything stop; what is handled is committed to Kafka then."""
    running = [bench.run(processor) for processor in processors(bench)]
    for each in running:
        await each.ready()
    await bench.settled(await bench.ask())
    await bench.stop()


async def commit(kafka: str, group: str, places: dict[tuple[str, int], int], metadata: str) -> None:
    """Commit offsets of a group without a member; confluent-kafka would drop the metadata."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(*place) for place in places])
        await consumer.commit(
            {TopicPartition(*place): OffsetAndMetadata(offset, metadata) for place, offset in places.items()}
        )
    finally:
        await consumer.stop()


async def test_the_first_start_claims_the_topics_and_each_commit_says_whose_it_is(bench: Bench) -> None:
    """The first record of the topic names the installation; a group's offsets carry it and the incarnation."""
    await one_saga(bench)
    async with bench.pool.acquire() as sql:
        here = await read_identity(sql)
    assert here.claimed
    owner = await read_owner(bench.kafka, bench.saga.name)
    assert owner is not None
    assert owner.installation == here.identity.installation
    assert owner.database == here.label
    # Read by aiokafka: confluent-kafka takes what follows the metadata in memory for a part of it now and then.
    admin = AIOKafkaAdminClient(bootstrap_servers=bench.kafka)
    await admin.start()
    try:
        for processor in processors(bench):
            found = await admin.list_consumer_group_offsets(processor.group)
            assert {Identity.parse(each.metadata) for each in found.values()} == {here.identity}
    finally:
        await admin.close()


async def test_a_second_installation_never_joins(bench: Bench, stack: Stack, module_database_url: str) -> None:
    """Each group, and a door without one, says whose the topics are; the first installation loses no partition."""
    first = [bench.run(processor) for processor in processors(bench)]
    for each in first:
        await each.ready()
    await bench.settled(await bench.ask())
    first_pool = bench.pool
    owner = await read_owner(bench.kafka, bench.saga.name)
    restarts = [each.worker.health.restarts for each in first]
    second_pool = await open_pool(module_database_url, max_size=12)
    second: list[Running] = []
    try:
        async with second_pool.acquire() as sql:
            await set_installation(sql, uuid4(), claimed=False)
        second = [bench.run(processor, pool=second_pool) for processor in processors(bench)]
        for each in second:
            why = await halted(each)
            assert f"belong to {owner}" in why
            assert "TRADESAGA_KAFKA" in why
            assert "tradesaga migrate --installation" in why
        writer = OutboxWriter(
            second_pool, bench.kafka, "door", "http", 1, owner=unique_owner_name("test"), saga=bench.saga.name
        )
        async with writer:
            with pytest.raises(NotWrittenError, match="belong to installation"):
                await writer.write(nothing, patience=3)
        assert await second_pool.fetchval("SELECT count(*) FROM lane") == 0
    finally:
        for each in second:
            await each.stop()
        await second_pool.close()
    bench.pool = first_pool
    await bench.settled(await bench.ask())
    for each, before in zip(first, restarts, strict=True):
        assert each.worker.health.lanes == PARTITIONS * len(each.worker.setup.processor.topics)
        assert each.worker.health.restarts == before


async def nothing(transaction: OutboxTransaction) -> None:
    """Write nothing that matters."""
    key = new_id()
    transaction.publish(Outgoing("nowhere", str(key), key, "note", [("ce_id", str(key).encode())], b"{}"))


async def test_a_further_database_of_the_installation_may_join(bench: Bench, module_database_url: str) -> None:
    """A service with a database of its own works once that has the installation's id, and not before."""
    await bench.serve(bench.kit.desk, log=True)
    owner = await read_owner(bench.kafka, bench.saga.name)
    assert owner is not None
    async with await open_pool(module_database_url, max_size=4) as pool, pool.acquire() as sql:
        await pool.execute(TABLES)
        await set_installation(sql, uuid4(), claimed=False)
        running = bench.run(StepProcessor(bench.kit.port), pool=pool)
        await halted(running)
        await set_installation(sql, owner.installation, claimed=False)
        await running.ready()
        await bench.settled(await bench.ask())
        await running.stop()


async def test_a_group_of_another_installation_is_refused_without_the_topic(bench: Bench) -> None:
    """Where a platform has not made the installation topic, the groups' own offsets still say whose they are."""
    await asyncio.to_thread(delete_topics, bench.kafka, [installation_topic(bench.saga.name)])
    await one_saga(bench)
    async with bench.pool.acquire() as sql:
        await set_installation(sql, uuid4(), claimed=False)
        await sql.execute("TRUNCATE lane")
    for processor in processors(bench):
        assert f"the group {processor.group} belongs to installation" in await halted(bench.run(processor))
    await bench.stop()
    await ensure_topics(bench.kafka, saga_topics(bench.saga.name)[-1:])  # which the bench deletes at its end


async def copied(bench: Bench) -> None:
    """Keep the lanes and rows of now, as a backup would."""
    for table in ("lane", "step_execution", "saga", "saga_event", "effect"):
        await bench.pool.execute(f"CREATE TABLE kept_{table} AS TABLE {table}")


async def set_back(bench: Bench) -> None:
    """Bring lanes and rows back to what was kept."""
    async with bench.pool.acquire() as sql, sql.transaction():
        for table in ("step_execution", "saga", "effect"):
            await sql.execute(f"DELETE FROM {table}")
        await sql.execute("INSERT INTO step_execution TABLE kept_step_execution; INSERT INTO saga TABLE kept_saga")
        await sql.execute(
            "UPDATE lane SET next_offset = k.next_offset, last_seq = k.last_seq, published_seq = k.published_seq,"
            " seen_offset = k.seen_offset, seen_crc = k.seen_crc FROM kept_lane k WHERE k.id = lane.id"
        )
        await sql.execute("DELETE FROM outbox o USING lane l WHERE l.id = o.lane AND o.seq > l.last_seq")


async def test_a_database_that_was_set_back_halts_every_group(bench: Bench) -> None:
    """Each group compares with what Kafka has committed, names the recovery, and repeats no effect."""
    await one_saga(bench)
    await copied(bench)
    await one_saga(bench)
    sagas = await bench.pool.fetch("SELECT saga_id FROM kept_saga")
    calls = await bench.pool.fetchval("SELECT count(*) FROM far_call")
    await set_back(bench)
    for processor in processors(bench):
        why = await halted(bench.run(processor))
        assert "was set back" in why
        assert "tradesaga recover restored" in why
        assert await members(bench.kafka, processor.group) == 0
    await asyncio.sleep(1)
    assert await bench.pool.fetchval("SELECT count(*) FROM saga") == len(sagas)
    assert await bench.pool.fetchval("SELECT count(*) FROM far_call") == calls


async def test_commits_that_a_standby_lacked_halt_every_group(bench: Bench) -> None:
    """Kafka's offsets are some seconds old; a fact on the topic that no outbox has shows that something was lost."""
    await one_saga(bench)
    await copied(bench)
    await one_saga(bench)
    await set_back(bench)
    async with bench.pool.acquire() as sql:
        here = await read_identity(sql)
    for processor in processors(bench):
        rows = await bench.pool.fetch(
            'SELECT topic, partition, next_offset FROM lane WHERE "group" = $1', processor.group
        )
        offsets = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
        await commit(bench.kafka, processor.group, offsets, str(here.identity))
    calls = await bench.pool.fetchval("SELECT count(*) FROM far_call")
    for processor in processors(bench):
        why = await halted(bench.run(processor))
        assert "has a fact of" in why
        assert "tradesaga recover restored" in why
    assert await bench.pool.fetchval("SELECT count(*) FROM far_call") == calls


async def test_a_worker_that_was_killed_goes_on(bench: Bench) -> None:
    """What its database has committed is no evidence, although Kafka's offsets and its own reading are behind."""
    running = await bench.serve_all()
    sagas = [await bench.ask() for _ in range(6)]
    await bench.heard(sagas[0], m.Paid)
    for each in running:
        assert each.worker.membership is not None
        each.worker.membership._owned = ()  # pyright: ignore[reportPrivateUsage] - nothing is committed to Kafka at the end, as after a kill
    await bench.stop()
    await bench.serve_all()
    for saga_id in sagas:
        assert (await bench.settled(saga_id))["state"] == "COMPLETED"


async def test_a_database_set_back_to_before_a_recovery_halts(bench: Bench) -> None:
    """The offsets may be lower after a recovery, so what is compared is the number of the incarnation."""
    await one_saga(bench)
    (running,) = await bench.serve(bench.kit.desk)
    await running.stop()
    async with bench.pool.acquire() as sql:
        here = await read_identity(sql)
    later = Identity(here.identity.installation, here.identity.incarnation + 5)
    group = StepProcessor(bench.kit.desk).group
    await commit(bench.kafka, group, {(events_topic(bench.saga.name), 3): 0}, str(later))
    assert "set back to before a recovery" in await halted(bench.run(StepProcessor(bench.kit.desk)))


async def test_a_recovered_database_goes_on_from_lower_offsets(bench: Bench) -> None:
    """What Kafka has of a former incarnation is no evidence: a recovery has decided where each lane goes on."""
    await one_saga(bench)
    await bench.pool.execute("INSERT INTO incarnation (number, kind, operator) VALUES (7, 'restored', 'test')")
    topic = commands_topic(bench.saga.name)
    await bench.pool.execute("UPDATE lane SET next_offset = 0 WHERE topic = $1", topic)
    await bench.serve_all()
    await bench.settled(await bench.ask())


async def test_a_topic_made_anew_is_noticed(bench: Bench) -> None:
    """The id is another one although the range fits: every group that knew the first one halts."""
    topic = commands_topic(bench.saga.name)
    await bench.serve_all()
    await bench.settled(await bench.ask())
    await bench.stop()
    assert await bench.pool.fetchval("SELECT max(next_offset) FROM lane WHERE topic = $1", topic) == 0
    await asyncio.to_thread(delete_topics, bench.kafka, [topic])
    await ensure_topics(bench.kafka, [each for each in saga_topics(bench.saga.name) if each.name == topic])
    for participant in (bench.kit.desk, bench.kit.port):
        why = await halted(bench.run(StepProcessor(participant)))
        assert "deleted and recreated" in why
        assert "tradesaga recover topics" in why


async def test_a_topic_made_anew_under_load_is_noticed_within_seconds(bench: Bench) -> None:
    """Workers that run leave their groups and say so, long before a client would refresh what it knows."""
    running = await bench.serve_all()
    await bench.settled(await bench.ask())
    topic = commands_topic(bench.saga.name)
    await asyncio.to_thread(delete_topics, bench.kafka, [topic])
    await ensure_topics(bench.kafka, [each for each in saga_topics(bench.saga.name) if each.name == topic])
    for each in running[:2]:
        await halted(each, LONGEST)
    await left(bench.kafka, StepProcessor(bench.kit.desk).group)


async def test_a_record_that_is_another_one_is_noticed(bench: Bench) -> None:
    """The last record that a lane has read is compared with the one that lies there now: range and id still fit."""
    await one_saga(bench)
    group = StepProcessor(bench.kit.desk).group
    changed = 'UPDATE lane SET seen_crc = (seen_crc + 1) % 4294967296 WHERE "group" = $1 AND seen_offset IS NOT NULL'
    assert await bench.pool.execute(changed, group) != "UPDATE 0"
    for processor in processors(bench):
        why = await halted(bench.run(processor))
        assert f"than the one that {group} has read" in why
        assert "unclean leader election" in why


async def test_every_group_halts_when_partitions_are_added(bench: Bench) -> None:
    """Under load: all leave within seconds and say what to do; no fact is handled on another partition."""
    running = [bench.run(processor) for processor in processors(bench)]
    for each in running:
        await each.ready()
    sagas = [await bench.ask() for _ in range(10)]
    admin = AdminClient({"bootstrap.servers": bench.kafka})
    topic = events_topic(bench.saga.name)
    for done in admin.create_partitions([NewPartitions(topic, 2 * PARTITIONS)]).values():
        await asyncio.to_thread(done.result)
    for each in running:
        why = await halted(each, LONGEST)
        assert f"has {2 * PARTITIONS} partitions and had {PARTITIONS}" in why
        assert "tradesaga recover topics" in why
        await left(bench.kafka, each.worker.setup.processor.group)
    writer = OutboxWriter(
        bench.pool, bench.kafka, "door", "http", 1, owner=unique_owner_name("test"), saga=bench.saga.name
    )
    async with writer:
        with pytest.raises(NotWrittenError, match="partitions and had"):
            await writer.write(nothing, patience=3)
    assert not bench.tail.names(sagas[0]).count("dead-letter")
    assert await bench.pool.fetchval("SELECT count(*) FROM lane WHERE partition >= $1", PARTITIONS) == 0
    assert await bench.pool.fetchval("SELECT count(*) FROM outbox WHERE aggregatetype LIKE '%dead-letters'") == 0


async def test_a_group_that_halts_leaves_and_goes_on_when_a_person_has_acted(bench: Bench) -> None:
    """Its partitions are free for others, it is not ready, and it joins again once nothing speaks against it."""
    await one_saga(bench)
    group = StepProcessor(bench.kit.desk).group
    lanes = await bench.pool.fetch('SELECT id, seen_crc FROM lane WHERE "group" = $1', group)
    (running,) = await bench.serve(bench.kit.desk)
    await bench.pool.execute('UPDATE lane SET seen_crc = 1 WHERE "group" = $1', group)
    running.worker._doubt()  # pyright: ignore[reportPrivateUsage]
    await halted(running)
    await left(bench.kafka, group)
    assert not running.worker.health.ready
    assert not running.worker.health.fetches
    for lane in lanes:
        await bench.pool.execute("UPDATE lane SET seen_crc = $2 WHERE id = $1", lane["id"], lane["seen_crc"])
    await running.ready()
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Paid)
    assert running.worker.health.halted == ""
