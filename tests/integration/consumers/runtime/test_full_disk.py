"""A server that has run out of room is no handler's failure: nobody's attempts are used up by it."""

import asyncio

import pytest

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.harness import open_bench
from tests.e2e.steps import BUSY
from tradesaga.schemas.messages.lifecycle import AttemptFailed, CompensationFailed, StepFailed

pytestmark = pytest.mark.stack

FULL = """
CREATE FUNCTION refuse_room() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON effect FOR EACH ROW EXECUTE FUNCTION refuse_room();
"""
FREE = "DROP TRIGGER full_disk ON effect; DROP FUNCTION refuse_room;"


async def test_a_full_disk_uses_up_no_attempts(stack: Stack, database_url: str) -> None:
    """Steps and compensations wait until there is room again, and then run as if nothing had been."""
    async with open_bench(stack.kafka, database_url, patience=BUSY) as bench:
        await bench.serve_all()
        taken_back = await bench.ask(confirm="wait")
        await bench.heard(taken_back, m.Shipped)
        await bench.pool.execute(FULL)
        forward = await bench.ask()
        await bench.say(taken_back, m.Report(report_id="r2", kind="lost"))
        await bench.heard(taken_back, m.Recalled)
        await asyncio.sleep(1.5)
        await bench.pool.execute(FREE)
        assert (await bench.settled(forward))["state"] == "COMPLETED"
        assert (await bench.settled(taken_back))["state"] == "ABORTED"
        for saga_id in (forward, taken_back):
            assert bench.tail.of(saga_id, AttemptFailed, StepFailed, CompensationFailed) == []
