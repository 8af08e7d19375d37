"""What offsets of the release before say of a database: it wrote no identity beside them."""

from collections.abc import AsyncIterator

import pytest

from tests.e2e.harness import Bench, open_bench
from tests.integration.infra.outbox.test_guard import commit, halted, one_saga, processors
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.infra.outbox.guard import GroupFilter, Guard
from tradesaga.infra.outbox.processor import Processor
from tradesaga.infra.postgres.installation import read_identity
from tradesaga.schemas.topics import PARTITIONS, events_topic

pytestmark = pytest.mark.stack


@pytest.fixture
async def bench(kafka: str, database_url: str) -> AsyncIterator[Bench]:
    """Yield a bench with nothing running on it."""
    async with open_bench(kafka, database_url) as bench:
        yield bench


async def test_offsets_of_an_earlier_release_are_no_evidence(bench: Bench) -> None:
    """It could commit records that nobody wanted before its database had their offsets; it wrote no identity."""
    await one_saga(bench)
    group = StepProcessor(bench.kit.desk).group
    places = [(events_topic(bench.saga.name), number) for number in range(PARTITIONS)]
    await commit(bench.kafka, group, dict.fromkeys(places, 1), "")
    await bench.pool.execute('UPDATE lane SET next_offset = 0 WHERE "group" = $1', group)
    (running,) = await bench.serve(bench.kit.desk)
    assert running.worker.health.halted == ""


async def test_a_database_set_back_at_the_upgrade_halts_every_group(bench: Bench) -> None:
    """An earlier release wrote no identity, but its saga log read every record before it committed an offset."""
    await one_saga(bench)
    events = events_topic(bench.saga.name)
    for processor in processors(bench):
        rows = await bench.pool.fetch(
            'SELECT topic, partition, next_offset FROM lane WHERE "group" = $1', processor.group
        )
        offsets = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
        await commit(bench.kafka, processor.group, offsets, "")
    await bench.pool.execute("UPDATE lane SET next_offset = 0 WHERE topic = $1", events)
    for processor in processors(bench):
        why = await halted(bench.run(processor))
        assert "an earlier release had the saga log past the record at offset 0" in why
        assert "tradesaga recover restored" in why


@pytest.mark.parametrize("upgraded", [False, True])
async def test_lanes_that_the_saga_log_left_behind_when_it_moved_halt_nobody(bench: Bench, *, upgraded: bool) -> None:
    """It works with a database of its own now, so what stands still in its former one says nothing of that."""
    await one_saga(bench)
    desk, _, log, _ = processors(bench)
    async with bench.pool.acquire() as sql:
        rows = await sql.fetch('SELECT topic, partition, next_offset FROM lane WHERE "group" = $1', log.group)
        offsets = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
        here = str((await read_identity(sql)).identity) if upgraded else ""
        await commit(bench.kafka, log.group, offsets, here)
        await sql.execute('UPDATE lane SET next_offset = 0 WHERE "group" = $1', log.group)

        async def refusal(group: Processor, *, moved: bool) -> str:
            group_filter: GroupFilter | None = (lambda name: name != "log") if moved else None
            return await Guard(
                bench.kafka, bench.saga.name, group.group, group.topics, group_filter=group_filter
            ).refusal(sql)

        assert await refusal(desk, moved=True) == ""
        assert "tradesaga recover restored" in await refusal(desk, moved=False)
        assert "tradesaga recover restored" in await refusal(log, moved=True)
