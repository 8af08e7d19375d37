"""A consumer that is stuck on a real broker: noticed, replaced, and in the end given up."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer

from tests.e2e import messages as m
from tests.e2e.harness import SESSION_MS, Bench, Running, open_bench
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.admin import has_record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.consumer import Consumer, Polled
from tradesaga.infra.outbox.watchdog import Patience
from tradesaga.infra.outbox.worker import Worker
from tradesaga.schemas.envelope import Header

pytestmark = pytest.mark.stack

Wants = Callable[[str, Sequence[Header]], bool]
DEAF = ContextVar("DEAF", default=False)
"""Whether what is fetched is for a consumer that brings nothing any more."""
QUICK = Patience(silence=2.0, rebuilds=2, hang=60)


@pytest.fixture
async def bench(kafka: str, database_url: str) -> AsyncIterator[Bench]:
    """Give a bench with nothing running on it."""
    async with open_bench(kafka, database_url) as bench:
        yield bench


def watched(bench: Bench) -> Running:
    """Run the desk under a watchdog that is quick to bark."""
    processor = StepProcessor(bench.kit.desk)
    worker = Worker(
        processor, bench.pool, bench.kafka, f"test-{uuid4().hex[:8]}", session_ms=SESSION_MS, patience=QUICK
    )
    running = Running(worker, asyncio.create_task(worker.run(), name="watched"))
    bench.running.append(running)
    return running


class Deafened:
    """Makes the first consumers deaf, from a moment on: paused for ever, as a fetcher that has died, or silent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, how: str, count: int) -> None:
        self.members: list[Consumer] = []
        self.strikes = False
        self._how, self._count = how, count
        self._poll = Consumer.poll
        library: Any = AIOKafkaConsumer  # untyped in part
        getmany = library.getmany

        async def poll(member: Consumer, wants: Wants, timeout_ms: int, limit: int) -> dict[Partition, Polled]:
            return await self.poll(member, wants, timeout_ms, limit)

        async def fetch(inner: Any, *places: Any, **limits: Any) -> Any:
            if DEAF.get():
                inner.pause(*inner.assignment())
            return await getmany(inner, *places, **limits)

        monkeypatch.setattr(Consumer, "poll", poll)
        monkeypatch.setattr(library, "getmany", fetch)

    async def poll(self, member: Consumer, wants: Wants, timeout_ms: int, limit: int) -> dict[Partition, Polled]:
        """Poll, or do not."""
        if member not in self.members:
            self.members.append(member)
        if self.strikes and self.members.index(member) < self._count:
            if self._how == "hangs":
                await asyncio.Event().wait()
            DEAF.set(True)  # for the task that polls this member
        return await self._poll(member, wants, timeout_ms, limit)


@pytest.mark.parametrize("how", ["brings nothing", "hangs"])
async def test_a_stuck_consumer_is_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """One that stays a member and reads nothing more, or never comes back from a poll, gives way to one that reads."""
    deafened = Deafened(monkeypatch, how, 1)
    running = watched(bench)
    await running.ready()
    before = await bench.ask()
    await bench.heard(before, m.Paid)
    deafened.strikes = True
    await asyncio.sleep(0.6)
    after = await bench.ask()
    await bench.heard(after, m.Paid)
    assert len(deafened.members) == 2
    assert await bench.effects(before) == await bench.effects(after) == [("book", "forward"), ("pay", "forward")]


async def test_where_no_new_consumer_helps_the_process_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After two that are as deaf as the first, the worker ends with an error that ends its process, for a new one."""
    deafened = Deafened(monkeypatch, "brings nothing", 9)
    running = watched(bench)
    await running.ready()
    deafened.strikes = True
    await asyncio.sleep(0.6)
    await bench.ask()
    with pytest.raises(CommandError, match="returns no records") as ended:
        async with asyncio.timeout(60):
            await asyncio.shield(running.task)
    assert ended.value.exit_code == ExitCode.UNAVAILABLE
    assert len(deafened.members) == 3
    bench.running.clear()


async def test_silence_without_records_replaces_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing to read for several times its patience, the watchdog keeps still."""
    deafened = Deafened(monkeypatch, "brings nothing", 0)
    running = watched(bench)
    await running.ready()
    await asyncio.sleep(3 * QUICK.silence)
    assert len(deafened.members) == 1
    assert running.worker.health.restarts == 0


async def test_the_broker_is_asked_as_by_a_stranger(bench: Bench) -> None:
    """A record at the offset or behind it is seen; behind the last one there is none."""
    saga_id = await bench.ask()
    (start,) = await bench.heard(saga_id, m.Asked)
    place: Partition = (start.topic, start.partition)
    answers: Mapping[int, bool] = {
        offset: await has_record(bench.kafka, {place: offset}) for offset in (start.offset, start.offset + 1)
    }
    assert list(answers.values()) == [True, False]
