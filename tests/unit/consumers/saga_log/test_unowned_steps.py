"""What is published of steps that nobody owns: nothing twice, and never more than was reported last."""

import asyncio
from uuid import uuid4

import pytest

from tests.sagas import Held
from tests.unit.consumers.saga_log.rig import RULES, Log
from tradesaga.consumers.saga_log.commands import UnownedSteps
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.schemas.messages.lifecycle import StepUnowned
from tradesaga.schemas.messages.message import Event

STEPS = ["place"]


def late(*said: Event) -> Tracked:
    """Return a saga that waits past its deadline for the step."""
    log = Log()
    log.start()
    log.say(Held())
    log.deadline()
    for each in said:
        log.say(each)
    return log.tracked


async def test_what_is_under_way_is_not_published_again_until_it_is_folded() -> None:
    """However often it is reported; whoever waits goes on once it counts."""
    saga, unowned = late(), UnownedSteps()
    found = {saga.saga_id: STEPS}
    unowned.report(found)
    unowned.committed(unowned.pending, found)
    unowned.report(found)
    assert not unowned.pending
    waiting = asyncio.create_task(unowned.settled(60))
    unowned.folded(RULES, {saga.saga_id: saga}, [saga.saga_id])
    await asyncio.sleep(0)
    assert not waiting.done()
    told = late(StepUnowned(step="place", reason="x"))._replace(saga_id=saga.saga_id)
    unowned.folded(RULES, {saga.saga_id: told}, [saga.saga_id, uuid4()])
    await waiting
    unowned.report(found)
    assert unowned.pending == found


async def test_a_batch_that_is_thrown_away_leaves_what_is_pending() -> None:
    """Only what a committed batch has taken is under way, and a new report takes the place of an old one."""
    unowned = UnownedSteps()
    old, new = {uuid4(): STEPS}, {uuid4(): STEPS}
    unowned.report(old)
    taken = unowned.pending
    unowned.report(new)
    unowned.committed(taken, old)
    assert unowned.pending == new
    assert unowned.pending.keys().isdisjoint(old)


@pytest.mark.parametrize("clear", [True, False])
async def test_waiting_ends(clear: bool) -> None:
    """When the lanes change hands, and after its time where nothing is folded."""
    unowned = UnownedSteps()
    unowned.report({uuid4(): STEPS})
    waiting = asyncio.create_task(unowned.settled(60 if clear else 0.01))
    await asyncio.sleep(0)
    if clear:
        unowned.clear()
    async with asyncio.timeout(5):
        await waiting
