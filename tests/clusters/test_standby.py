"""A primary whose standby confirms every commit: the primary dies under load, the standby takes over."""

import asyncio
from pathlib import Path

import pytest

from tests.clusters.standby import primary_and_standby, synchronise
from tests.conftest import Stack
from tests.recovery.ends import PLANS, check_ends, check_nothing_twice
from tests.recovery.stage import Stage, execute, open_stage
from tests.waiting import until
from tradesaga.consumers.recovery.rebuild import RebuildRequest
from tradesaga.infra.errors import CommandError
from tradesaga.infra.postgres.database import DATABASE_ERRORS, session
from tradesaga.infra.postgres.migrate import migrate

pytestmark = [pytest.mark.stack, pytest.mark.alone, pytest.mark.timeout(180)]


async def test_the_standby_takes_over_with_all_that_was_acknowledged(
    stack: Stack, database_url: str, tmp_path: Path
) -> None:
    """Services find the new primary by their URL of both; every acknowledged commit is there, every saga ends, once."""
    async with primary_and_standby(tmp_path / "pair") as pair:
        await asyncio.to_thread(migrate, pair.url)
        await execute(pair.url, "CREATE TABLE acknowledged (number int PRIMARY KEY)")
        async with open_stage(stack, database_url, url=pair.url) as stage:
            await stage.serve()
            told: list[int] = []
            writing = asyncio.create_task(_write(pair.url, told))
            asking = asyncio.create_task(_ask(stage, 42))
            await asyncio.sleep(3)
            await asyncio.to_thread(pair.lose_primary)
            before = len(told)
            await pair.promote()
            await asking
            await check_ends(stage)
            await check_nothing_twice(stage, recovered=False)
            writing.cancel()
            await asyncio.wait([writing])
            async with session(pair.url) as sql:
                there = {row[0] for row in await sql.fetch("SELECT number FROM acknowledged")}
                assert await sql.fetchval("SELECT count(*) FROM saga") == 42
            assert before > 0
            assert len(told) > before
            assert set(told) <= there


async def test_a_standby_that_lacked_commits_halts_every_group(stack: Stack, database_url: str, tmp_path: Path) -> None:
    """An asynchronous standby takes over without the last commits: nothing goes on before the recovery."""
    async with primary_and_standby(tmp_path / "pair") as pair:
        await asyncio.to_thread(migrate, pair.url)
        async with open_stage(stack, database_url, url=pair.url) as stage:
            await stage.serve()
            await _ask(stage, 10)
            await stage.reached(4)
            await synchronise(pair.primary, confirmed=False)
            await execute(pair.standby.url, "ALTER SYSTEM SET primary_conninfo = ''")
            await execute(pair.standby.url, "SELECT pg_reload_conf()")
            await asyncio.sleep(1)
            for number in range(10, 30):
                await stage.insist(f"k{number}", **PLANS[number % len(PLANS)][0])
            await stage.reached(14)
            await asyncio.to_thread(pair.lose_primary)
            await pair.promote()
            await stage.insist("k30", **PLANS[30 % len(PLANS)][0])  # an idle group looks at its next record

            async def halted() -> bool:
                return all(running.worker.health.halted for running in stage.bench.running)

            await until(halted, 60)
            for running in stage.bench.running:
                assert "tradesaga recover restored" in running.worker.health.halted
            calls = await stage.far_pool.fetchval("SELECT count(*) FROM far_call")
            await asyncio.sleep(2)
            assert await stage.far_pool.fetchval("SELECT count(*) FROM far_call") == calls
            await stage.stop()
            await stage.use(pair.url)
            await stage.rebuild(RebuildRequest("restored", "tester"))
            await stage.serve()
            await check_ends(stage)
            await check_nothing_twice(stage)


async def _ask(stage: Stage, count: int) -> None:
    for number in range(count):
        await stage.insist(f"k{number}", **PLANS[number % len(PLANS)][0])
        await asyncio.sleep(0.1)


async def _write(url: str, told: list[int]) -> None:
    """Commit number after number, and note each that the server has acknowledged."""
    number = 0
    while True:
        try:
            async with session(url) as sql:
                while True:
                    number += 1
                    await sql.execute("INSERT INTO acknowledged VALUES ($1)", number)
                    told.append(number)
                    await asyncio.sleep(0.01)
        except (CommandError, *DATABASE_ERRORS):
            await asyncio.sleep(0.1)
