# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""What a recovery refuses, and that a refused one has changed nothing."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.broker import delete_topics
from tests.e2e import messages as m
from tests.recovery.stage import Stage, ignore
from tradesaga.consumers.recovery.rebuild import RebuildRequest
from tradesaga.consumers.recovery.topics import republish
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.schemas.topics import PARTITIONS, saga_topics

pytestmark = pytest.mark.stack

REBUILT = RebuildRequest("rebuilt", "tester")
RESTORED = RebuildRequest("restored", "tester")


async def refused(stage: Stage, wish: RebuildRequest) -> str:
    """Give the code with which a recovery is refused."""
    with pytest.raises(CommandError) as caught:
        await stage.rebuild(wish)
    assert caught.value.exit_code is ExitCode.REFUSED
    return caught.value.code


async def test_a_database_that_does_not_fit_is_refused(stage: Stage) -> None:
    """No topics, running services, rows where none should be, none where some should be, another version's sagas."""
    assert await refused(stage, REBUILT) == "topic-empty"
    assert await refused(stage, RESTORED) == "database-empty"
    await stage.bench.say(uuid4(), m.Asked(idempotency_key="k"))
    service = await asyncpg.connect(stage.url, server_settings={"application_name": "tradesaga cash"})
    assert await refused(stage, REBUILT) == "services-running"
    await service.close()
    assert (await stage.rebuild(replace(REBUILT, dry_run=True))).folded == 1
    assert (await stage.rebuild(REBUILT)).folded == 1
    assert await refused(stage, REBUILT) == "database-not-empty"
    await stage.bench.pool.execute("UPDATE saga SET version = 2")
    assert await refused(stage, RESTORED) == "version-unknown"
    await stage.bench.pool.execute("UPDATE saga SET version = 1")
    await stage.bench.pool.execute("UPDATE lane SET next_offset = 7 WHERE topic LIKE '%.events'")
    assert await refused(stage, RESTORED) == "topic-behind"
    differing = [topic.name for topic in saga_topics(stage.bench.saga.name) if topic.partitions == 1]  # the test's: 12
    await asyncio.to_thread(delete_topics, stage.bench.kafka, differing)
    with pytest.raises(CommandError) as caught:
        await republish(stage.settings, stage.sagas, "tester", ignore, ignore)
    assert caught.value.code == "topics-not-empty"
    assert await stage.bench.pool.fetchval("SELECT count(*) FROM incarnation") == 1


async def test_topics_that_do_not_fit_are_refused(stage: Stage) -> None:
    """Another saga's facts, facts of a later release (parked on demand), and a topic whose beginning is gone."""
    saga_id = uuid4()
    await stage.bench.say(saga_id, m.Asked(idempotency_key="k"), type="other.asked.v1")
    assert await refused(stage, REBUILT) == "topic-foreign"
    await stage.bench.say(saga_id, m.Asked(idempotency_key="k"))
    await stage.bench.say(saga_id, m.Booked(amount="1"), type=f"{stage.bench.saga.name}.reconsidered.v1")
    assert await refused(stage, REBUILT) == "type-unknown"
    report = await stage.rebuild(replace(REBUILT, unknown=True))
    assert (report.parked, report.folded) == (2, 3)
    await stage.new_database()
    admin = AdminClient({"bootstrap.servers": stage.bench.kafka})
    home = partition_of(str(saga_id).encode(), PARTITIONS)
    cut = admin.delete_records([TopicPartition(f"{stage.bench.saga.name}.events", home, 1)])
    for done in cut.values():
        await asyncio.to_thread(done.result)
    assert await refused(stage, REBUILT) == "topic-trimmed"
