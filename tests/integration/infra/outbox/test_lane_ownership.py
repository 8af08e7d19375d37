"""Who owns a lane: restarts, rebalances, owners that are late to notice, and what a dead one left unpublished."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.direct import direct, names
from tests.e2e.harness import Bench, open_bench
from tests.waiting import until
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.infra.outbox import lane_rows
from tradesaga.infra.outbox.commit import SAVING
from tradesaga.sagas.step import Retry
from tradesaga.schemas.envelope import splice
from tradesaga.schemas.messages.lifecycle import AttemptFailed, StepFailed
from tradesaga.schemas.topics import PARTITIONS, events_topic

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

BOTH = [("book", "forward"), ("pay", "forward")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def whole_bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench whose retries are a second apart, so that a restart fits between them."""
    slow = Retry(attempts=3, initial=1.0, maximum=1.0, jitter=0)
    async with open_bench(stack.kafka, module_database_url, retry=slow) as bench:
        yield bench


@pytest_asyncio.fixture(loop_scope="module")
async def bench(whole_bench: Bench) -> AsyncIterator[Bench]:
    """Give it with nothing running on it, before and after."""
    yield whole_bench
    await whole_bench.stop()


async def test_attempts_go_on_counting_after_a_restart(bench: Bench) -> None:
    """Another worker makes the second and third attempt when they are due, and then gives up."""
    (running,) = await bench.serve(bench.kit.desk)
    saga_id = await bench.ask(pay="fail")
    await bench.heard(saga_id, AttemptFailed)
    await running.stop()
    await bench.serve(bench.kit.desk)
    (failed,) = await bench.heard(saga_id, StepFailed)
    assert StepFailed.from_wire(failed.value).attempts == 3
    assert await bench.attempts(saga_id, "pay") == [1, 2, 3]


async def test_a_call_under_way_at_the_end_is_asked_after(bench: Bench) -> None:
    """A worker ends with a call in the air: the next one asks what became of it and does not call again."""
    (running,) = await bench.serve(bench.kit.port)
    saga_id = uuid4()
    asked = m.Asked(idempotency_key="k", plan={"ship": "hang", "confirm": "wait"}).to_wire()
    await bench.say(saga_id, m.Paid(amount="1", attempt=1), context=splice(b"", "asked", asked))

    async def placed() -> bool:
        return await bench.far.state(f"{saga_id}:ship") is not None

    await until(placed)
    await running.stop()
    await bench.serve(bench.kit.port)
    await bench.heard(saga_id, m.Shipped)
    assert await bench.calls(saga_id, "place") == 1
    assert await bench.calls(saga_id, "query") >= 1


async def test_a_clean_restart_repeats_nothing(bench: Bench) -> None:
    """The next owner goes on behind the last record and publishes nothing again."""
    (running,) = await bench.serve(bench.kit.desk)
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Paid)
    await running.stop()
    await bench.serve(bench.kit.desk)
    other = await bench.ask()
    await bench.heard(other, m.Paid)
    assert len(bench.tail.of(saga_id, m.Booked)) == len(bench.tail.of(saga_id, m.Paid)) == 1
    assert await bench.pool.fetchval("SELECT count(*) FROM lane WHERE last_seq < published_seq") == 0


async def test_two_workers_share_and_lose_nothing(bench: Bench) -> None:
    """A second worker joins in the middle and the first one leaves: each effect happens once, each saga goes on."""
    (first,) = await bench.serve(bench.kit.desk)
    sagas = [await bench.ask() for _ in range(100)]
    second = bench.run(StepProcessor(bench.kit.desk))
    sagas += [await bench.ask() for _ in range(100)]
    await second.ready()

    async def shared() -> bool:
        return first.worker.health.lanes == second.worker.health.lanes == PARTITIONS

    await until(shared)
    sagas += [await bench.ask() for _ in range(100)]
    await first.stop()
    sagas += [await bench.ask() for _ in range(100)]
    for saga_id in sagas:
        await bench.heard(saga_id, m.Paid)
    for saga_id in sagas:
        assert await bench.effects(saga_id) == BOTH


async def test_a_revocation_in_the_middle_of_a_batch_skips_no_record(bench: Bench) -> None:
    """Partitions are taken away and given back while a batch waits at the fence: its records are judged."""
    (running,) = await bench.serve(bench.kit.desk)
    async with bench.pool.acquire() as other, other.transaction():
        await other.execute('SELECT FROM lane WHERE "group" = $1 FOR UPDATE', f"{bench.saga.name}-desk")
        sagas = [await bench.ask() for _ in range(30)]

        async def waits() -> bool:
            asked = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            return await bench.pool.fetchval(asked) > 0

        await until(waits)
        member = running.worker.membership
        assert member is not None
        revoked = asyncio.create_task(member._on_revoked())  # pyright: ignore[reportPrivateUsage]
        await asyncio.sleep(0.1)
    await revoked
    await member._on_assigned()  # pyright: ignore[reportPrivateUsage]
    for saga_id in sagas:
        await bench.heard(saga_id, m.Paid)
        assert await bench.effects(saga_id) == BOTH


async def test_a_stale_owner_is_fenced(bench: Bench) -> None:
    """Lanes claimed behind a worker's back: nothing of its next batch counts, and it claims them anew."""
    (running,) = await bench.serve(bench.kit.desk)
    warm = await bench.ask()
    await bench.heard(warm, m.Paid)
    group = f"{bench.saga.name}-desk"
    places = [(topic, number) for topic in StepProcessor(bench.kit.desk).topics for number in range(PARTITIONS)]
    async with bench.pool.acquire() as sql:
        claimed = await lane_rows.acquire(sql, group, places, "usurper")
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Paid)
    assert running.worker.health.fenced + running.worker.health.restarts > 0
    assert await bench.effects(saga_id) == BOTH
    assert len(bench.tail.of(saga_id, m.Booked)) == 1
    epochs = await bench.pool.fetch('SELECT id, epoch FROM lane WHERE "group" = $1', group)
    known = {lane.id: lane.epoch for lane in claimed}
    assert all(row["epoch"] > known[row["id"]] for row in epochs)


async def test_a_batch_locks_only_the_lanes_of_its_records(bench: Bench) -> None:
    """A saga's records are on one partition: no row of another lane is written, however many this owner has."""
    await bench.serve(bench.kit.desk)
    warm = await bench.ask()
    await bench.heard(warm, m.Paid)
    await asyncio.sleep(2 * SAVING)  # what the first one has moved is saved
    query = 'SELECT partition, xmin::text::bigint AS version FROM lane WHERE "group" = $1 ORDER BY id'
    before = await bench.pool.fetch(query, f"{bench.saga.name}-desk")
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Paid)
    await asyncio.sleep(2 * SAVING)
    after = await bench.pool.fetch(query, f"{bench.saga.name}-desk")
    changed = {new["partition"] for old, new in zip(before, after, strict=True) if old["version"] != new["version"]}
    assert changed == {partition_of(str(saga_id).encode(), PARTITIONS)}


async def test_an_owner_at_work_notices_that_it_has_lost_an_idle_lane(bench: Bench) -> None:
    """No batch locks the lane; the check beside the saving of watermarks finds its new epoch and ends the session."""
    (running,) = await bench.serve(bench.kit.desk)
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Paid)
    busy = partition_of(str(saga_id).encode(), PARTITIONS)
    idle = (events_topic(bench.saga.name), (busy + 1) % PARTITIONS)
    restarts = running.worker.health.restarts
    async with bench.pool.acquire() as sql:
        await lane_rows.acquire(sql, f"{bench.saga.name}-desk", [idle], "usurper")

    async def restarted() -> bool:
        await bench.say(saga_id, m.Paid(amount="1", attempt=1))
        await asyncio.sleep(0.1)
        return running.worker.health.restarts > restarts

    await until(restarted)


async def test_a_stale_owner_writes_nothing(bench: Bench) -> None:
    """The batch of an owner whose lanes have been claimed changes no row and says nothing."""
    saga_id = uuid4()
    async with direct(bench, StepProcessor(bench.kit.desk)) as stale:
        record = stale.record(saga_id, m.Asked(idempotency_key="k"))
        places = [(lane.topic, lane.partition) for lane in stale.lanes.values()]
        await lane_rows.acquire(stale.sql, stale.processor.group, places, "usurper")
        async with stale.sql.transaction():
            stale.lanes[record.lane].next_offset = 10**9
            assert await lane_rows.advance(stale.sql, stale.lanes.values()) == set()
            assert await lane_rows.fence(stale.sql, list(stale.lanes.values())) == set()
        moved = await bench.pool.fetchval("SELECT next_offset FROM lane WHERE id = $1", record.lane)
    assert moved < 10**9
    assert await bench.row(saga_id, "book") is None


async def test_what_a_dead_owner_left_is_published(bench: Bench) -> None:
    """A batch was committed and its owner died before it published: the next owner says it, once, and in order."""
    sagas = [uuid4() for _ in range(5)]
    async with direct(bench, StepProcessor(bench.kit.desk)) as dead:
        said = await dead.judge(*(dead.record(saga_id, m.Asked(idempotency_key="k")) for saga_id in sagas))
        assert names(said) == ["booked"] * 5
        await dead.sql.execute("CREATE TABLE kept AS TABLE step_execution")
    await bench.pool.execute("INSERT INTO step_execution TABLE kept")
    await bench.serve(bench.kit.desk)
    for saga_id, record in zip(sagas, said, strict=True):
        (booked,) = await bench.heard(saga_id, m.Booked)
        assert booked.value == record.value
        assert booked.header("ce_id") == str(record.id)
        await bench.heard(saga_id, m.Paid)
        assert await bench.effects(saga_id) == BOTH
