"""Three brokers, two of which hold each record before it counts: brokers die and leaders move under load."""

import asyncio
from pathlib import Path

import pytest

from tests.clusters.brokers import three_brokers, watch_leaders
from tests.conftest import Stack
from tests.recovery.ends import PLANS, check_ends, check_nothing_twice
from tests.recovery.stage import Stage, open_stage
from tradesaga.schemas.topics import events_topic

pytestmark = [pytest.mark.stack, pytest.mark.alone, pytest.mark.timeout(180)]


async def test_brokers_die_and_leaders_move_under_load(stack: Stack, database_url: str, tmp_path: Path) -> None:
    """Two of three brokers are killed, one after the other, and come back; every saga ends as it should, once."""
    async with (
        three_brokers(tmp_path) as brokers,
        open_stage(stack, database_url, kafka=brokers.bootstrap, replicas=3) as stage,
    ):
        await stage.serve()
        leaders: dict[int, list[int]] = {}
        watching = asyncio.create_task(watch_leaders(brokers.bootstrap, events_topic(stage.bench.saga.name), leaders))
        asking = asyncio.create_task(_ask(stage, 42))
        for node in brokers.nodes[:2]:
            await asyncio.sleep(2)
            brokers.kill(node)
            await asyncio.sleep(2)
            brokers.start(node)
            await brokers.ready(node)
        await asking
        await check_ends(stage)
        await check_nothing_twice(stage, recovered=False)
        assert await stage.bench.pool.fetchval("SELECT count(*) FROM saga") == 42
        watching.cancel()
        await asyncio.wait([watching])
        assert sum(len(set(seen)) > 1 for seen in leaders.values()) >= 6


async def _ask(stage: Stage, count: int) -> None:
    """Start sagas all the while; a start that no broker has confirmed is asked for again under its key."""
    for number in range(count):
        await stage.insist(f"k{number}", **PLANS[number % len(PLANS)][0])
        await asyncio.sleep(0.15)
