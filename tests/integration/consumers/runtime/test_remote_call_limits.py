"""How many remote calls a participant has under way: never more than its limit, whatever comes, and none is lost."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.harness import Bench, open_bench
from tests.waiting import until
from tradesaga.consumers.participant import Participant, StepContext
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.runtime.remote_calls import CLOSING
from tradesaga.infra.clock import SystemClock, format_time, new_id
from tradesaga.infra.telemetry.metrics import IN_FLIGHT
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import Envelope, splice
from tradesaga.schemas.messages.message import Message, wire_type
from tradesaga.schemas.topics import commands_topic, events_topic

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

LIMIT = 40


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench whose attempts have long to run."""
    async with open_bench(stack.kafka, module_database_url, patience=20.0, deadline=300.0) as bench:
        yield bench


class Venue:
    """A far side that counts who waits for it; while it is shut nobody is answered."""

    def __init__(self, *, shut: bool = False, stubborn: bool = False) -> None:
        self.waiting = 0
        self.most = 0
        self.placed: list[str] = []
        self.stubborn = stubborn
        self.open = asyncio.Event()
        if not shut:
            self.open.set()

    async def visit(self) -> None:
        """Wait for the far side; a stubborn one does not listen to whoever wants it to stop."""
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            while not self.open.is_set():
                try:
                    await self.open.wait()
                except asyncio.CancelledError:
                    if not self.stubborn:
                        raise
            await asyncio.sleep(0.005)
        finally:
            self.waiting -= 1


def shipping(bench: Bench, name: str, venue: Venue) -> Participant:
    """Bind the remote step to a venue."""
    ship, caller = bench.kit.steps.ship, Participant(name, bench.saga)

    @caller.calls(ship)
    async def place(event: m.Paid, ctx: StepContext) -> m.Shipped | m.ShipRefused:
        venue.placed.append(ctx.key)
        await venue.visit()
        return m.Shipped(ref=ctx.key)

    @caller.queries(ship)
    async def query(event: m.Paid, ctx: StepContext) -> m.Shipped | m.ShipRefused | None:
        await venue.visit()
        return m.Shipped(ref=ctx.key)

    @caller.compensates_remotely(ship)
    async def recall(command: m.Recall, ctx: StepContext) -> m.Recalled:
        await venue.visit()
        return m.Recalled()

    _ = place, query, recall
    return caller


async def flood(bench: Bench, sagas: list[UUID], topic: str, message: Message, **fields: Any) -> None:
    """Say the same of many sagas at once."""
    value = message.to_wire()
    sent: list[asyncio.Future[Any]] = []
    for saga_id in sagas:
        envelope = Envelope(
            type=wire_type(bench.saga.name, type(message)), id=str(new_id()), source="/test", saga_id=str(saga_id),
            time=format_time(SystemClock().now()), context=splice(b"", message.NAME, value), **fields,
        )  # fmt: skip
        sent.append(await bench.producer.send(topic, str(saga_id).encode(), value, envelope.to_headers()))
    await asyncio.gather(*sent)


async def ship(bench: Bench, count: int) -> list[UUID]:
    """Trigger the remote step of new sagas."""
    sagas = [uuid4() for _ in range(count)]
    await flood(bench, sagas, events_topic(bench.saga.name), m.Paid(amount="10.5", attempt=1))
    return sagas


async def all_are(bench: Bench, sagas: list[UUID], status: RowStatus) -> None:
    """Wait until the rows of these sagas have a status."""
    statement = "SELECT count(*) FROM step_execution WHERE saga_id = ANY($1::uuid[]) AND status = $2"

    async def counted() -> bool:
        return await bench.pool.fetchval(statement, sagas, int(status)) == len(sagas)

    await until(counted, 60)


async def test_what_passes_the_limit_waits_in_its_rows(bench: Bench) -> None:
    """Fifteen hundred triggers and then as many recalls: never more calls than allowed, each made once, none left."""
    venue = Venue()
    running = bench.run(StepProcessor(shipping(bench, "narrow", venue), calls=LIMIT))
    await running.ready()
    sagas = await ship(bench, 1500)
    await all_are(bench, sagas, RowStatus.DONE)
    assert sorted(venue.placed) == sorted(f"{saga_id}:ship" for saga_id in sagas)
    await flood(bench, sagas, commands_topic(bench.saga.name), m.Recall(), step="ship")
    await all_are(bench, sagas, RowStatus.COMPENSATED)
    assert LIMIT // 2 < venue.most <= LIMIT
    attempts = await bench.pool.fetch(
        "SELECT DISTINCT attempt, back_attempt FROM step_execution WHERE saga_id = ANY($1::uuid[])", sagas
    )
    assert [tuple(row) for row in attempts] == [(1, 1)]
    await running.stop()


async def test_a_restart_asks_after_thousands_a_few_at_a_time(bench: Bench) -> None:
    """Two thousand calls whose caller has died: its heir asks after each of them, no more at once than it may."""
    first = bench.run(StepProcessor(shipping(bench, "heir", Venue(shut=True)), calls=5000))
    await first.ready()
    sagas = await ship(bench, 2000)
    await all_are(bench, sagas, RowStatus.INTENT)
    await first.stop()
    await bench.pool.execute("UPDATE step_execution SET due = clock_timestamp() WHERE saga_id = ANY($1::uuid[])", sagas)
    venue = Venue()
    second = bench.run(StepProcessor(shipping(bench, "heir", venue), calls=LIMIT))
    await all_are(bench, sagas, RowStatus.DONE)
    assert LIMIT // 2 < venue.most <= LIMIT
    assert venue.placed == []
    await second.stop()


async def test_a_call_that_will_not_end_keeps_nobody_from_closing(bench: Bench) -> None:
    """A handler that swallows its cancellation: the service ends in time, and its heir finds the row and settles it."""
    venue = Venue(shut=True, stubborn=True)
    running = bench.run(StepProcessor(shipping(bench, "stubborn", venue)))
    await running.ready()
    (saga_id,) = await ship(bench, 1)
    await bench.reaches(saga_id, "ship", RowStatus.INTENT)
    began = time.monotonic()
    await running.stop()
    took = time.monotonic() - began
    row = await bench.row(saga_id, "ship")
    assert row is not None
    assert (row["status"], row["due"] is not None, venue.waiting) == (RowStatus.INTENT, True, 1)
    assert took < CLOSING + 5
    await bench.pool.execute("UPDATE step_execution SET due = clock_timestamp() WHERE saga_id = $1", saga_id)
    heir = Venue()
    second = bench.run(StepProcessor(shipping(bench, "stubborn", heir)))
    await bench.reaches(saga_id, "ship", RowStatus.DONE)
    venue.open.set()
    assert heir.placed == []
    await second.stop()


async def test_calls_under_way_show(bench: Bench) -> None:
    """The gauge of a group says how many of its calls are under way, and none once they have ended."""
    venue = Venue(shut=True)
    running = bench.run(StepProcessor(shipping(bench, "shown", venue)))
    await running.ready()
    sagas = await ship(bench, 7)

    async def seven() -> bool:
        return venue.waiting == 7

    await until(seven)
    gauge = IN_FLIGHT.labels(f"{bench.saga.name}-shown")
    assert [sample.value for metric in gauge.collect() for sample in metric.samples] == [7.0]
    venue.open.set()
    await all_are(bench, sagas, RowStatus.DONE)

    async def none() -> bool:
        return [sample.value for metric in gauge.collect() for sample in metric.samples] == [0.0]

    await until(none)
    await running.stop()
