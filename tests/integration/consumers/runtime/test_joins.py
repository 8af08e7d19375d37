"""Branches and joins: one event starts two steps; a step of two events keeps the first until the second comes."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.fork import Fork, make_fork
from tests.e2e.harness import Bench, open_bench
from tradesaga.consumers.participant import Participant
from tradesaga.schemas.messages.lifecycle import AttemptFailed, Bar, StepBarred

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench with nothing running on it."""
    async with open_bench(stack.kafka, module_database_url) as bench:
        yield bench


@pytest.fixture(scope="module")
def fork(bench: Bench) -> Fork:
    """Give the forked saga on the bench's topics."""
    return make_fork(bench.saga.name, bench.far)


async def run(bench: Bench, *participants: Participant) -> None:
    """Run these participants alone."""
    await bench.stop()
    await bench.serve(*participants)


@pytest.mark.parametrize("first", ["left", "right"])
async def test_a_join_runs_once_both_events_are_there(bench: Bench, fork: Fork, first: str) -> None:
    """In either order the join waits for the second event, sees both branches' facts, and runs once."""
    early, late = (fork.left, fork.right) if first == "left" else (fork.right, fork.left)
    await run(bench, fork.ends, early)
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Left if first == "left" else m.Right)
    assert bench.tail.of(saga_id, m.Met) == []
    await run(bench, fork.ends, late)
    (met,) = await bench.heard(saga_id, m.Met)
    assert m.Met.from_wire(met.value).seen == ["left", "right"]
    assert set(json.loads(met.header("ts_context"))) == {"asked", "opened", "left", "right", "met"}
    for event in (m.Left, m.Right):
        await bench.repeat(bench.tail.of(saga_id, event)[0])
    again = await bench.heard(saga_id, m.Met, 3)
    assert len({heard.record for heard in again}) == 1
    assert await bench.effects(saga_id) == [("meet", "forward")]


async def test_a_join_that_is_tried_again_sees_both_branches(bench: Bench, fork: Fork) -> None:
    """What a retry reads back from the row is all of the join's inputs, not the last one alone."""
    await run(bench, fork.ends, fork.left, fork.right)
    saga_id = await bench.ask(meet="fail:1")
    (met,) = await bench.heard(saga_id, m.Met)
    assert len(bench.tail.of(saga_id, AttemptFailed)) == 1
    assert set(json.loads(met.header("ts_context"))) == {"asked", "opened", "left", "right", "met"}


async def test_a_bar_closes_a_join_that_still_gathers(bench: Bench, fork: Fork) -> None:
    """With one of its inputs there the join has not begun, so a bar is answered at once."""
    await run(bench, fork.ends, fork.left)
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Left)
    await bench.say(saga_id, Bar(step="meet"), step="meet", context=b"")
    await bench.heard(saga_id, StepBarred)
    await run(bench, fork.ends, fork.right)
    await bench.heard(saga_id, StepBarred, 2)
    assert await bench.effects(saga_id) == []
    assert bench.tail.of(saga_id, m.Met) == []
