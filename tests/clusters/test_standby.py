"""A primary whose standby confirms every commit: the primary dies under load, the standby takes over."""

import asyncio
from pathlib import Path

import pytest

from infra.database import migrate, session
from infra.database_faults import DATABASE_ERRORS
from infra.errors import CommandError
from tests.clusters.standby import primary_and_standby
from tests.conftest import Stack
from tests.recovery.ends import PLANS, check_ends, check_nothing_twice
from tests.recovery.stage import Stage, execute, open_stage

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


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
