# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""The topics are lost: they are made anew from the database, and everything goes on."""

import asyncio
from collections import Counter

import pytest

from tests.broker import delete_topics
from tests.integration.infra.kafka.test_transactions import transaction
from tests.keys import KEYS
from tests.recovery.ends import PLANS, check_ends, check_nothing_twice
from tests.recovery.stage import Stage, ignore
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.recovery.comparison import compare
from tradesaga.consumers.recovery.rebuild import RebuildRequest
from tradesaga.consumers.recovery.topics import republish
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.infra.errors import CommandError
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.postgres.database import session
from tradesaga.schemas.topics import PARTITIONS, events_topic, saga_topics

pytestmark = pytest.mark.stack


async def lose_topics(stage: Stage) -> None:
    """Delete every topic of the saga, and wait until they are gone."""
    names = [topic.name for topic in saga_topics(stage.bench.saga.name)]
    await asyncio.to_thread(delete_topics, stage.bench.kafka, names)


async def test_everything_goes_on_with_topics_written_anew(stage: Stage) -> None:
    """Sagas in mid-flight, steps ahead of the saga log: the topics come back, all end, and nothing is done twice.

    A database rebuilt from the topics that came back equals the one they were written from, times and hashes included.
    """
    await stage.serve()
    for number in range(42):
        await stage.knock(f"k{number}", **PLANS[number % len(PLANS)][0])
    await stage.reached(12)
    await stage.bench.stop()
    # The steps go on, and sagas begin, while nobody folds: what is said then is in the outboxes alone.
    for participant in (stage.bench.kit.desk, stage.bench.kit.port):
        await stage.bench.run(StepProcessor(participant)).ready()
    await stage.bench.run(Intake(stage.bench.saga, KEYS)).ready()
    for number in range(42, 49):
        await stage.knock(f"k{number}", **PLANS[number % len(PLANS)][0])
    await stage.ran_ahead()
    await stage.stop()
    await lose_topics(stage)
    report = await republish(stage.settings, stage.sagas, "tester", ignore, ignore)
    assert report.records["events"] > 100
    assert report.records["facts not folded yet"] > 0
    await stage.forget_unknown()
    await stage.serve()
    await check_ends(stage)
    await check_nothing_twice(stage)
    await stage.stop()
    lived = stage.url
    rebuilt = await stage.new_database()
    again = await stage.rebuild(RebuildRequest("rebuilt", "tester"))
    found = await compare(lived, rebuilt)
    assert found.equal, found.lines()
    assert +again.owed == Counter()


async def test_topics_with_another_number_of_partitions_are_not_made(stage: Stage) -> None:
    """Keys would move; the refusal names the number that the topics had, and no topic is created."""
    await stage.serve()
    await stage.stop()
    await lose_topics(stage)
    with pytest.raises(CommandError, match="had 12 partitions and would be created with 3") as caught:
        await republish(stage.settings.changed(partitions=3), stage.sagas, "tester", ignore, ignore)
    assert (caught.value.code, caught.value.do) == ("partitions-differ", "set TRADESAGA_PARTITIONS=12")
    await republish(stage.settings, stage.sagas, "tester", ignore, ignore)


def put_in_transaction(stage: Stage, records: int, *, commits: bool) -> None:
    """Have a stranger write so many records to each partition of the topic of facts, in one transaction."""
    topic = events_topic(stage.bench.saga.name)
    with transaction(stage.bench.kafka) as client:
        for number in range(PARTITIONS):
            for _ in range(records):
                client.produce(topic, partition=number, value=b"{}")
        client.flush(20)
        client.commit_transaction(20) if commits else client.abort_transaction(20)


async def readable(stage: Stage) -> dict[Partition, list[tuple[int, int]]]:
    """Return the offsets and times of all that can be read of the topic of facts, up to the last fact."""
    topic = events_topic(stage.bench.saga.name)
    rows = await stage.bench.pool.fetch('SELECT partition, max("offset") + 1 FROM saga_event GROUP BY 1')
    found: dict[Partition, list[tuple[int, int]]] = {}
    async with TopicReader(stage.bench.kafka) as replay:
        for number, end in rows:
            place = (topic, number)
            batches = [batch async for batch in replay.read_remaining(place, 0, end)]
            found[place] = [(record.offset, record.recorded_ms) for batch in batches for record in batch]
    return found


async def skipped(stage: Stage) -> set[int]:
    """Return how many offsets were skipped before some fact."""
    rows = await stage.bench.pool.fetch("SELECT DISTINCT skipped FROM saga_event WHERE skipped IS NOT NULL")
    return {row[0] for row in rows}


async def test_offsets_that_transactions_took_are_skipped_again(stage: Stage) -> None:
    """Aborted and committed ones of strangers, before the first fact and between others: every fact keeps its offset.

    The hashes, which cover what was skipped, are those of a database that is rebuilt from the new topics.
    """
    put_in_transaction(stage, 2, commits=False)
    await stage.serve()
    for number in range(14):
        await stage.knock(f"k{number}", **PLANS[number % len(PLANS)][0])
    await stage.reached(4)
    for records, commits in ((2, True), (1, True), (3, False), (2, True), (1, False)):
        put_in_transaction(stage, records, commits=commits)
    for number in range(14, 42):
        await stage.knock(f"k{number}", **PLANS[number % len(PLANS)][0])
    await stage.reached(20)
    await stage.stop()
    before = await readable(stage)
    assert {1, 5} <= await skipped(stage)
    middle = before[events_topic(stage.bench.saga.name), 0][-1][1]
    await lose_topics(stage)
    report = await republish(stage.settings, stage.sagas, "tester", ignore, ignore)
    assert report.records["skipped offsets"] >= 10 * PARTITIONS
    assert await readable(stage) == before
    async with TopicReader(stage.bench.kafka) as replay:
        found = await replay.first_at(dict.fromkeys(before, middle))
        # Markers of transactions may follow the last fact; the broker stamps them with its own time.
        assert {place: offset for place, offset in found.items() if offset <= before[place][-1][0]} == {
            place: first
            for place, records in before.items()
            if (first := next((offset for offset, at in records if at >= middle), None)) is not None
        }
    await stage.forget_unknown()
    await stage.serve()
    await check_ends(stage)
    await check_nothing_twice(stage)
    await stage.stop()
    lived = stage.url
    rebuilt = await stage.new_database()
    await stage.rebuild(RebuildRequest("rebuilt", "tester"))
    found = await compare(lived, rebuilt)
    assert found.equal, found.lines()
    await refuses_a_log_that_lacks_a_record(stage)


async def refuses_a_log_that_lacks_a_record(stage: Stage) -> None:
    """A gap of which no record says that it held none is not filled."""
    async with session(stage.url) as sql, sql.transaction():
        await sql.execute("SET LOCAL session_replication_role = replica")
        await sql.execute(
            """
            DELETE FROM saga_event WHERE (topic, partition, "offset") IN (
                SELECT topic, partition, "offset" FROM saga_event WHERE skipped IS NULL AND "offset" > 20 LIMIT 1
            )
            """
        )
    await lose_topics(stage)
    with pytest.raises(CommandError) as refused:
        await republish(stage.settings, stage.sagas, "tester", ignore, ignore)
    assert refused.value.code == "log-gap"
    assert "records are missing" in refused.value.what
