"""A recheck on real servers: recorded like any decision, and replayed to the same end."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import orjson
import pytest

from tests.integration.consumers.saga_log.rig import Rig, open_rig, ready
from tests.integration.consumers.saga_log.test_deadlines import replayed
from tests.sagas import Filled, Held, OrderAsked, Placed, Unheld
from tradesaga.schemas.messages.lifecycle import RecheckRequested, StepBarred

pytestmark = pytest.mark.stack


@pytest.fixture
async def rig(kafka: str, database_url: str) -> AsyncIterator[Rig]:
    """Give a saga with topics and a database of its own."""
    async with open_rig(kafka, database_url, timedelta(minutes=5)) as rig:
        yield rig


async def test_a_saga_that_is_only_said_to_have_filled_is_taken_back(rig: Rig) -> None:
    """Its owners are asked one after the other; a restart in between changes nothing, and a replay agrees."""
    saga_id = uuid4()
    async with rig.running() as worker:
        await ready(worker)
        for event in (OrderAsked(idempotency_key="k", account="A"), Held(), Placed(), Filled()):
            await rig.say(saga_id, event)
        await rig.reached(saga_id, "RUNNING")
        await rig.say(saga_id, RecheckRequested(operator="ann", reason="its fill is forged"))
        await rig.reached(saga_id, "COMPENSATING")
        await rig.say(saga_id, Held())
        asked = await rig.read("commands", 2)
        assert [each.headers["ts_step"] for each in asked] == [b"hold", b"place"]
    async with rig.running() as worker:
        await ready(worker)
        await rig.say(saga_id, StepBarred(step="place"))
        await rig.say(saga_id, Unheld())
        row = await rig.reached(saga_id, "ABORTED")
    assert list(orjson.loads(row["context"])) == ["order-asked", "held"]
    assert (await replayed(rig)).differing == 0
