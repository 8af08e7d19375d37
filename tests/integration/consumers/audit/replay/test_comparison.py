"""The topics, replayed, come to what the database has; where somebody has changed it, both sides are told."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.integration.consumers.saga_log.rig import PARTITIONS, Rig, open_rig
from tests.sagas import Filled, Held, HoldRefused, OrderAsked, Placed, Settled, Unheld
from tradesaga.consumers.audit.replay.comparison import Comparison, ReplayReport
from tradesaga.consumers.audit.replay.state import Identity, ReplayState
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.schemas.messages.lifecycle import AbortRequested

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

STORIES = [
    (OrderAsked(idempotency_key="k", account="A"), Held(), Placed(), Filled(), Settled()),
    (OrderAsked(idempotency_key="k", account="A"), HoldRefused()),
    (OrderAsked(idempotency_key="k", account="A"), Held(), Held(), Unheld()),
    (Held(), OrderAsked(idempotency_key="k", account="A"), AbortRequested(operator="desk", reason="a test")),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(stack: Stack, module_database_url: str) -> AsyncIterator[Rig]:
    """Give topics and a database on which a saga log has worked: good stories, repeats, poison, strays."""
    async with open_rig(stack.kafka, module_database_url) as rig:
        async with rig.running():
            count = 0
            for _ in range(5):
                for story in STORIES:
                    saga_id = uuid4()
                    for event in story:
                        await rig.say(saga_id, event)
                    count += len(story)
            last = await rig.say(uuid4(), STORIES[0][0])
            await rig.put(last.topic, last.key or b"", b"{not json", list(last.headers))
            await rig.put(last.topic, b"nobody", b"{}", [])
            # Names a saga of another partition: it must not be taken for one that has no start here.
            elsewhere = next(key for key in (b"%d" % number for number in range(99)) if _home(key) != last.partition)
            await rig.put(last.topic, elsewhere, b"{}", list(last.headers))
            await rig.recorded(count + 4)
        yield rig


def _home(key: bytes) -> int:
    return partition_of(key, PARTITIONS)


async def replayed(rig: Rig) -> ReplayReport:
    """Replay and compare."""
    sql = await asyncpg.connect(rig.url)
    try:
        identity = Identity.of(rig.rules, "a cluster", "comparison")
        async with TopicReader(rig.kafka) as topics:
            with ReplayState(None, identity, rig.rules) as replay_state:
                return await Comparison(sql, topics, rig.rules, replay_state).run()
    finally:
        await sql.close()


async def test_topics_and_database_agree(rig: Rig) -> None:
    """Every record of the audit log and every saga's row, field by field."""
    report = await replayed(rig)
    assert report.differences == []
    assert report.records == await rig.pool.fetchval("SELECT count(*) FROM saga_event")
    rows = await rig.pool.fetch("SELECT state, count(*) FROM saga GROUP BY state")
    assert report.states == {row[0]: row[1] for row in rows}
    assert len(report.states) > 1


CHANGES = {
    "state": ("UPDATE saga SET state = 'ABORTED' WHERE saga_id = $1", "status"),
    "steps": ("UPDATE saga SET progress = '{}' WHERE saga_id = $1", "state"),
    "context": ("UPDATE saga SET context = '{}' WHERE saga_id = $1", "context"),
    "count": ("UPDATE saga SET seq = seq + 1 WHERE saga_id = $1", "seq"),
    "saga": ("DELETE FROM saga WHERE saga_id = $1", "row"),
    "error": ("UPDATE saga_event SET error = 'none of it' WHERE saga_id = $1 AND seq = 2", "error"),
    "added": ("UPDATE saga_event SET context_added = 'more' WHERE saga_id = $1 AND seq = 2", "context_added"),
    "value": ("UPDATE saga_event SET value = '{}' WHERE saga_id = $1 AND seq = 1", "value"),
    "record": ("DELETE FROM saga_event WHERE saga_id = $1 AND seq = 2", "row"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_is_told_with_both_sides(rig: Rig, change: str) -> None:
    """By somebody with every right, and no triggers in the way."""
    statement, field = CHANGES[change]
    saga_id: UUID = await rig.pool.fetchval("SELECT saga_id FROM saga WHERE state = 'COMPLETED' LIMIT 1")

    async with altered(rig, statement, saga_id):
        report = await replayed(rig)
    assert report.differing >= 1
    found = next(each for each in report.differences if each.field == field)
    assert found.topics != found.database
    assert (await replayed(rig)).differences == []


@asynccontextmanager
async def altered(rig: Rig, statement: str, saga_id: UUID) -> AsyncGenerator[None]:
    """Alter the database as one who may do anything, and put everything back afterwards."""
    async with rig.pool.acquire() as sql:
        await sql.execute("SET session_replication_role = replica")
        for table in ("saga", "saga_event"):
            await sql.execute(f"CREATE TEMP TABLE {table}_kept AS TABLE {table}")
        await sql.execute(statement, saga_id)
        yield
        for table in ("saga", "saga_event"):
            await sql.execute(f"DELETE FROM {table}")
            await sql.execute(f"INSERT INTO {table} SELECT * FROM {table}_kept")
            await sql.execute(f"DROP TABLE {table}_kept")
        await sql.execute("SET session_replication_role = origin")
