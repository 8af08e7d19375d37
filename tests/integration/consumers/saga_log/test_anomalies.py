"""The saga log against facts in a wrong order, another version's sagas, and clocks that are wrong."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest

from tests.integration.consumers.saga_log.rig import PARTITIONS, Rig, open_rig
from tests.sagas import Filled, Held, OrderAsked, Placed, Settled, small_saga
from tests.waiting import until
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.clock import SystemClock
from tradesaga.schemas.messages.lifecycle import ParkReleased

pytestmark = pytest.mark.stack


@pytest.fixture
async def rig(kafka: str, database_url: str) -> AsyncIterator[Rig]:
    """Give a saga with topics and a database of its own."""
    async with open_rig(kafka, database_url) as rig:
        yield rig


def asked() -> OrderAsked:
    """Make a start."""
    return OrderAsked(idempotency_key="k", account="A")


async def test_out_of_order_facts(rig: Rig) -> None:
    """Facts of a saga in the reverse of their order, some of them twice, come to the same end."""
    saga_id = uuid4()
    async with rig.running():
        await rig.say(saga_id, asked())
        for event in (Settled(), Filled(), Settled(), Placed(), Held(), Placed()):
            await rig.say(saga_id, event)
        row = await rig.reached(saga_id, "COMPLETED")
    assert json.loads(row["completed_steps"]) == ["hold", "place", "fill", "settle"]
    assert list(json.loads(row["context"])) == ["order-asked", "settled", "filled", "placed", "held"]


async def test_unknown_definition_version_during_a_rolling_deploy(rig: Rig) -> None:
    """A newer saga log parks what belongs to an older version's sagas; the older one lets it go; nothing is lost."""
    old, new = uuid4(), uuid4()
    newer = Rules(small_saga(rig.saga.name, version=2), PARTITIONS)
    async with rig.running():
        await rig.say(old, asked())
        await rig.reached(old, "IDLE")
    async with rig.running(SagaLog(newer)):
        held = await rig.say(old, Held())
        await rig.say(old, Placed())
        await rig.say(new, asked())
        for event in (Held(), Placed(), Filled(), Settled()):
            await rig.say(new, event)
        assert (await rig.reached(new, "COMPLETED"))["version"] == 2
        await rig.recorded(8)
    parked = await rig.pool.fetch('SELECT saga_id, reason FROM parked WHERE released IS NULL ORDER BY "offset"')
    assert [row["saga_id"] for row in parked] == [old, old]
    assert "runs under version 1" in parked[0]["reason"]
    async with rig.running():
        place = {"topic": held.topic, "partition": held.partition, "offset": held.offset, "action": "retry"}
        await rig.say(old, ParkReleased.model_validate({"operator": "ann", "reason": "the old one is back", **place}))
        for event in (Filled(), Settled()):
            await rig.say(old, event)
        row = await rig.reached(old, "COMPLETED")
    assert row["version"] == 1
    assert json.loads(row["completed_steps"]) == ["hold", "place", "fill", "settle"]
    assert await rig.pool.fetchval("SELECT count(*) FROM parked WHERE released IS NULL") == 0


class WrongClock:
    """A machine's clock that is wrong by so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.off = int(seconds * 1e9)

    def now(self) -> int:
        """Give nanoseconds since 1970 UTC, or what this clock takes for it."""
        return SystemClock().now() + self.off


@pytest.mark.parametrize("off", [-3600.0, 3600.0])
async def test_clock_jumps_move_no_deadline(kafka: str, database_url: str, off: float) -> None:
    """Deadlines keep to the database's clock: a saga log an hour slow is not late, one an hour fast not early."""
    late, early = uuid4(), uuid4()
    async with (
        open_rig(kafka, database_url, timedelta(seconds=3)) as rig,
        rig.running(SagaLog(rig.rules, WrongClock(off))),
    ):
        for saga_id in (late, early):
            await rig.say(saga_id, asked())
            await rig.say(saga_id, Held())
        for event in (Placed(), Filled(), Settled()):
            await rig.say(early, event)
        await rig.reached(early, "COMPLETED")
        await rig.reached(late, "COMPENSATING")
        statement = """
        SELECT extract(epoch FROM elapsed.recorded_at - begun.recorded_at)::float8
        FROM saga_event elapsed JOIN saga_event begun USING (saga_id)
        WHERE saga_id = $1 AND elapsed.event_type LIKE '%deadline-elapsed%' AND begun.event_type LIKE '%order-asked%'
        """

        async def told() -> bool:
            return await rig.pool.fetchval(statement, late) is not None

        await until(told)
        assert 2.9 < await rig.pool.fetchval(statement, late) < 10
        assert await rig.pool.fetchval(statement, early) is None
