"""Services as processes, killed at any moment and started again: everything goes on from where it was."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.crew import Crew
from tests.e2e.endings import COMPLETE, PLANS, UNDONE
from tests.e2e.harness import Bench, open_bench
from tests.e2e.service import KINDS
from tests.e2e.steps import BUSY
from tests.waiting import until
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.identity import saga_id as identify
from tradesaga.schemas.topics import starts_topic

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench whose services run elsewhere."""
    async with open_bench(stack.kafka, module_database_url, patience=BUSY) as bench:
        yield bench


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def crew(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Crew]:
    """Give one process for each kind of service, and end them cleanly: whatever ended by itself fails the test."""
    crew = Crew(bench.saga.name, bench.kafka, bench.url, tmp_path_factory.mktemp("crew"))
    await crew.start(*KINDS)
    await crew.until_ready(*KINDS)
    yield crew
    await crew.stop()


async def knock(bench: Bench, key: str, **plan: str) -> UUID:
    """Ask for a saga at the front door, as anybody may."""
    value = m.Asked(idempotency_key=key, plan=plan).to_wire()
    await (await bench.producer.send(starts_topic(bench.saga.name), key.encode(), value, []))
    return identify(bench.saga.name, "alice", key)


async def check_end(bench: Bench, saga_id: UUID, state: str, effects: list[tuple[str, str]]) -> None:
    """Hold a saga to its end: state, effects in the database and at the far side, each once, and all of its context."""
    found = await bench.settled(saga_id)
    assert found["state"] == state, bench.tail.names(saga_id)
    assert await bench.effects(saga_id) == effects
    assert await bench.pool.fetchval("SELECT max(taken) FROM far_order WHERE key = $1", f"{saga_id}:ship") in {1, None}
    context = json.loads(found["context"])
    assert list(context)[:3] == ["asked", "booked", "paid"]
    if state == "COMPLETED":
        assert list(context) == ["asked", "booked", "paid", "shipped", "confirmed", "closed"]
        assert context["closed"] == {"account": "alice", "amount": "10.5", "ref": f"{saga_id}:ship"}


async def test_any_process_may_die_at_any_moment(bench: Bench, crew: Crew) -> None:
    """Fifty sagas, each kind of process killed once meanwhile: all end as they should, each effect once."""
    chance = random.Random(7)
    asked: list[tuple[UUID, str, list[tuple[str, str]]]] = []

    async def ask() -> None:
        for number in range(50):
            plan, state, effects = PLANS[number % len(PLANS)]
            asked.append((await knock(bench, f"any-{number}", **plan), state, effects))
            await asyncio.sleep(chance.uniform(0, 0.2))

    asking = asyncio.create_task(ask())
    for kind in chance.sample(sorted(KINDS), len(KINDS)):
        await asyncio.sleep(chance.uniform(0.3, 1.2))
        await crew.replace(kind)
    await asking
    for saga_id, state, effects in asked:
        await check_end(bench, saga_id, state, effects)


async def test_the_saga_log_dies_while_it_takes_back(bench: Bench, crew: Crew) -> None:
    """Killed after its first compensation command, it goes on with the next: last step first, each once."""
    sagas = [await knock(bench, f"back-{number}", confirm="lost", unship="hang:1") for number in range(5)]
    for saga_id in sagas:
        await bench.heard(saga_id, m.Recall)
    await crew.replace("log")
    for saga_id in sagas:
        await check_end(bench, saga_id, "ABORTED", UNDONE)
        undone = dict.fromkeys(
            name for name in bench.tail.names(saga_id) if name in {"recalled", "refunded", "unbooked"}
        )
        assert list(undone) == ["recalled", "refunded", "unbooked"]


async def test_the_far_side_s_service_dies_in_a_call(bench: Bench, crew: Crew) -> None:
    """Killed once the effect is there and the answer is not: it asks when it is back, and never calls again."""
    saga_id = await knock(bench, "call", ship="hang")

    async def placed() -> bool:
        return await bench.far.state(f"{saga_id}:ship") is not None

    await until(placed, 30)
    await crew.replace("port")
    await bench.heard(saga_id, m.Shipped)
    assert await bench.calls(saga_id, "place") == 1
    await check_end(bench, saga_id, "COMPLETED", COMPLETE)


async def test_a_local_service_dies_in_its_transaction(bench: Bench, crew: Crew) -> None:
    """Killed while a handler runs: nothing of the batch stands, and the attempt is made anew, counted once."""
    saga_id = await knock(bench, "local", pay="hang:1")

    async def begun() -> bool:
        return await bench.attempts(saga_id, "pay") != []

    await until(begun, 30)
    await crew.replace("desk")
    await check_end(bench, saga_id, "COMPLETED", COMPLETE)
    (paid,) = {heard.record for heard in bench.tail.of(saga_id, m.Paid)}
    assert m.Paid.from_wire(paid[1]).attempt == 2


async def test_intake_dies_between_two_knocks(bench: Bench, crew: Crew) -> None:
    """The same start before and after the death of intake is one saga."""
    saga_id = await knock(bench, "twice", confirm="wait")
    await bench.reaches(saga_id, "confirm", RowStatus.WAITING)
    await crew.kill("intake")
    assert await knock(bench, "twice", confirm="wait") == saga_id
    await crew.start("intake")
    other = await knock(bench, "after")
    await bench.far.report(f"{saga_id}:ship", "r1", "done")
    await check_end(bench, other, "COMPLETED", COMPLETE)
    await check_end(bench, saga_id, "COMPLETED", COMPLETE)
