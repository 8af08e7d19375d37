"""Deadlines on real servers: judged by the broker's clock, and counted whatever stands in their way."""

import asyncio
import importlib
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.integration.consumers.saga_log.rig import Rig, open_rig, ready
from tests.sagas import Filled, Held, OrderAsked, Placed, Settled, Unheld, headers_of
from tradesaga.consumers.audit.replay.comparison import Comparison, ReplayReport
from tradesaga.consumers.audit.replay.state import Identity, ReplayState
from tradesaga.consumers.saga_log import fold, store
from tradesaga.consumers.saga_log.advance import CLOCK_SLACK_MS
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.postgres.database import session
from tradesaga.schemas.envelope import TYPE
from tradesaga.schemas.messages.lifecycle import DeadlineElapsed, StepBarred

pytestmark = pytest.mark.stack
START = OrderAsked(idempotency_key="k", account="A")


@pytest.fixture
async def rig(kafka: str, database_url: str) -> AsyncIterator[Rig]:
    """Give a saga with topics and a database of its own, and three seconds to end."""
    async with open_rig(kafka, database_url, timedelta(seconds=3)) as rig:
        yield rig


async def deadlines(rig: Rig, saga_id: UUID) -> list[asyncpg.Record]:
    """Return the deadlines that were recorded of a saga, in their order."""
    return await rig.pool.fetch(
        "SELECT e.error, (extract(epoch FROM e.recorded_at - s.deadline) * 1000)::int AS late FROM saga_event e"
        ' JOIN saga s USING (saga_id) WHERE saga_id = $1 AND event_type = $2 ORDER BY "offset"',
        saga_id,
        f"{rig.saga.name}.deadline-elapsed.v1",
    )


async def replayed(rig: Rig) -> ReplayReport:
    """Fold the topic again, and compare."""
    async with TopicReader(rig.kafka) as replay, session(rig.url) as sql:
        with ReplayState(None, Identity.of(rig.rules, "a cluster", "comparison"), rig.rules) as replay_state:
            return await Comparison(sql, replay, rig.rules, replay_state).run()


async def test_a_forged_deadline_turns_nothing_back(rig: Rig) -> None:
    """Whoever writes it, before its time it is recorded and not counted; the saga's own comes when it is due."""
    saga_id = uuid4()
    async with rig.running():
        await rig.say(saga_id, START)
        await rig.say(saga_id, DeadlineElapsed(deadline="2020-01-01T00:00:00.000000000Z"))
        await rig.recorded(2)
        row = await rig.saga_row(saga_id)
        assert row is not None
        assert row["state"] == "IDLE"
        await rig.reached(saga_id, "COMPENSATING")
    forged, own = await deadlines(rig, saga_id)
    assert "this one does not count" in forged["error"]
    assert own["error"] is None
    assert own["late"] >= -CLOCK_SLACK_MS
    assert (await replayed(rig)).differing == 0


async def test_a_database_whose_clock_is_ahead_turns_nothing_back_early(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its early deadline is recorded, how far ahead it is learned, and the one that counts comes in time."""
    for name in ("DUE", "NEXT_DUE"):
        ahead = getattr(store, name).replace("clock_timestamp()", "(clock_timestamp() + interval '2 seconds')")
        monkeypatch.setattr(store, name, ahead)
    first, second = uuid4(), uuid4()
    with capture_logs() as logs:
        async with rig.running():
            await rig.say(first, START)
            await rig.recorded(1)
        async with rig.running():  # a new owner asks the database when the next deadline is
            await rig.reached(first, "COMPENSATING")
            await rig.say(second, START)
            await rig.reached(second, "COMPENSATING")
    found = await deadlines(rig, first)
    assert 2 <= len(found) <= 4
    assert [each["error"] is None for each in found] == [*[False] * (len(found) - 1), True]
    assert found[0]["late"] < -CLOCK_SLACK_MS
    assert found[-1]["late"] >= -CLOCK_SLACK_MS
    assert all(each["late"] > -1000 for each in await deadlines(rig, second))
    assert any(each["event"] == "the database's clock is ahead of the broker's" for each in logs)
    assert (await replayed(rig)).differing == 0


async def poisoned(rig: Rig, saga_id: UUID, followers: int) -> None:
    """Begin a saga, then say what cannot be read, and much behind it that can."""
    await rig.say(saga_id, START)
    await poison(rig, saga_id)
    for _ in range(followers):
        await rig.say(saga_id, Held())


async def poison(rig: Rig, saga_id: UUID) -> None:
    """Say what cannot be read."""
    headers = [
        (name, b"x.never-heard-of.v1" if name == TYPE else value)
        for name, value in headers_of(rig.saga, Held(), saga_id)
    ]
    await rig.put(rig.topic("events"), str(saga_id).encode(), b"{}", headers)


async def test_a_poisoned_saga_ends(rig: Rig) -> None:
    """Many records wait under one that cannot be read; the deadline lets them go, and the saga is taken back."""
    saga_id = uuid4()
    async with rig.running() as worker:
        await ready(worker)
        await poisoned(rig, saga_id, 200)
        await rig.reached(saga_id, "COMPENSATING")
        for answer in (StepBarred(step="place"), Unheld(), Placed()):
            await rig.say(saga_id, answer)
        await rig.reached(saga_id, "COMPENSATING")
        assert len(await rig.read("commands", 2)) >= 2
    waiting = await rig.pool.fetch("SELECT reason FROM parked WHERE released IS NULL")
    assert [each["reason"].startswith("no message 'x.never-heard-of.v1'") for each in waiting] == [True]
    assert await rig.pool.fetchval("SELECT count(*) FROM parked WHERE released = 'retry'") > 0
    assert (await replayed(rig)).differing == 0


async def test_a_forged_deadline_takes_no_power_from_the_real_one(rig: Rig) -> None:
    """It comes first, within what clocks differ by, and counts; the saga's own still counts, once, over poison."""
    saga_id = uuid4()
    async with rig.running() as worker:
        await ready(worker)
        started = await rig.say(saga_id, START)
        await rig.say(saga_id, Held())
        await asyncio.sleep(max(0.0, started.recorded_ms / 1000 + 2.93 - time.time()))
        forged = await rig.say(saga_id, DeadlineElapsed(deadline="2020-01-01T00:00:00.000000000Z"))
        assert started.recorded_ms + 2900 <= forged.recorded_ms < started.recorded_ms + 3000
        await poison(rig, saga_id)
        await rig.say(saga_id, StepBarred(step="place"))
        await rig.say(saga_id, Unheld())
        await rig.reached(saga_id, "ABORTED")
    assert [each["error"] for each in await deadlines(rig, saga_id)] == [None, None]
    assert await rig.pool.fetchval("SELECT count(*) FROM parked WHERE released IS NULL") == 1
    assert (await replayed(rig)).differing == 0


async def test_deadlines_let_go_all_that_waits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another, as many as it takes and no more: what the steps had done behind much else is heard."""
    monkeypatch.setattr(fold, "RELEASE_LIMIT", 20)
    saga_id = uuid4()
    async with rig.running() as worker:
        await ready(worker)
        await poisoned(rig, saga_id, 50)
        for event in (Placed(), Filled(), Settled()):
            await rig.say(saga_id, event)
        await rig.reached(saga_id, "COMPLETED")
        row = await rig.saga_row(saga_id)
        assert row is not None
        assert row["deadline_due"] is None
        await rig.say(saga_id, Held())
        await rig.recorded(59)
    assert [each["error"] for each in await deadlines(rig, saga_id)] == [None] * 3
    assert await rig.pool.fetchval("SELECT count(*) FROM parked WHERE released IS NULL") == 1
    assert (await replayed(rig)).differing == 0


async def test_a_deadline_that_an_earlier_release_counted_comes_again(rig: Rig) -> None:
    """It does not count over records that cannot be read; `migrate` has one published that does."""
    saga_id = uuid4()
    async with rig.running() as worker:
        await ready(worker)
        await rig.say(saga_id, START)
        await rig.say(saga_id, Held())
        await rig.recorded(2)
    await asyncio.sleep(3)
    await rig.pool.execute("UPDATE saga SET deadline_due = NULL")  # it was published
    async with rig.running() as worker:
        await ready(worker)
        await rig.say(saga_id, DeadlineElapsed(deadline="2020-01-01T00:00:00.000000000Z"))
        await rig.reached(saga_id, "COMPENSATING")
    rearm = importlib.import_module("tradesaga.infra.postgres.migrations.versions.0015_pending_deadlines")
    await rig.pool.execute(rearm.REARM)
    await poison(rig, saga_id)
    await rig.say(saga_id, StepBarred(step="place"))
    await rig.say(saga_id, Unheld())
    async with rig.running():
        await rig.reached(saga_id, "ABORTED")
    assert await rig.pool.execute(rearm.REARM) == "UPDATE 0"
    assert len(await deadlines(rig, saga_id)) == 2
    assert (await replayed(rig)).differing == 0


async def test_a_deadline_that_an_earlier_release_parked_comes_again(rig: Rig) -> None:
    """`migrate` has it published once more; until then the saga waits, as it did."""
    saga_id = uuid4()
    async with rig.running() as worker:
        await ready(worker)
        await poisoned(rig, saga_id, 1)
        await rig.recorded(3)
    await asyncio.sleep(3)
    await rig.pool.execute("UPDATE saga SET deadline_due = NULL")  # it was published
    async with rig.running() as worker:
        await ready(worker)
        await rig.say(saga_id, DeadlineElapsed(deadline="2020-01-01T00:00:00.000000000Z"))
        await rig.recorded(4)
        row = await rig.saga_row(saga_id)
        assert row is not None
        assert row["state"] == "IDLE"
    rearm = importlib.import_module("tradesaga.infra.postgres.migrations.versions.0008_parked_deadlines")
    await rig.pool.execute(rearm.REARM)
    async with rig.running():
        await rig.reached(saga_id, "COMPENSATING")
    assert (await replayed(rig)).differing == 0
