"""The database is lost: it is made anew from the topics, and everything goes on as if nothing had been."""

from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from consumers.recovery.comparison import compare
from consumers.recovery.rebuild import Wish
from tests.conftest import Stack
from tests.recovery.stage import Stage, open_stage

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="function")]

REBUILT = Wish("rebuilt", "tester")
FORTH = [("book", "forward"), ("pay", "forward")]
COMPLETE = [*FORTH, ("close", "forward")]
UNDONE = [*FORTH, ("pay", "back"), ("book", "back")]
PLANS: list[tuple[dict[str, str], str, list[tuple[str, str]]]] = [
    ({}, "COMPLETED", COMPLETE),
    ({"pay": "fail:1"}, "COMPLETED", COMPLETE),
    ({"confirm": "lost"}, "ABORTED", UNDONE),
    ({"ship": "lost"}, "COMPLETED", COMPLETE),
    ({"ship": "refuse", "unpay": "fail:1"}, "ABORTED", UNDONE),
    ({"ship": "fail"}, "ABORTED", UNDONE),
    ({"ship": "refuse", "unpay": "impossible"}, "FAILED", [*FORTH, ("book", "back")]),
]


@pytest_asyncio.fixture
async def stage(stack: Stack, database_url: str) -> AsyncIterator[Stage]:
    """Give a stage whose far side is in the test's own database."""
    async with open_stage(stack, database_url) as stage:
        yield stage


async def check_ends(stage: Stage, count: int) -> None:
    """Hold every saga that was asked for to its end: state, effects here and at the far side, each once."""
    bench = stage.bench
    for number in range(count):
        _plan, state, effects = PLANS[number % len(PLANS)]
        saga_id = stage.asked[f"k{number}"]
        found = await bench.settled(saga_id)
        assert found["state"] == state, (number, bench.tail.names(saga_id))
        done = Counter(await bench.effects(saga_id))
        assert done == Counter(effects), (number, done, bench.tail.names(saga_id))
        assert await stage.far_taken(saga_id) <= 1


async def test_a_rebuilt_database_equals_the_lost_one(stage: Stage) -> None:
    """Sagas of all ends, and the database made from their topics is the same in every field that facts can tell."""
    await stage.serve()
    for number in range(28):
        plan = PLANS[number % len(PLANS)][0]
        await stage.knock(f"k{number}", **plan)
    await check_ends(stage, 28)
    await stage.stop()
    lived = stage.url
    rebuilt = await stage.new_database()
    report = await stage.rebuild(REBUILT)
    found = await compare(lived, rebuilt)
    assert found.equal, found.lines()
    assert found.rows["saga"] == 28
    assert found.rows["step_execution"] > 60
    assert report.open_steps.total() == 0
    assert +report.owed == Counter()


async def test_unfinished_sagas_go_on_after_a_rebuild(stage: Stage) -> None:
    """The database vanishes under forty sagas in mid-flight; rebuilt, all end, and the far side was used once."""
    await stage.serve()
    for number in range(42):
        await stage.knock(f"k{number}", **PLANS[number % len(PLANS)][0])
    await stage.reached(12)
    await stage.lose_database()
    await stage.stop()
    await stage.new_database()
    report = await stage.rebuild(REBUILT)
    assert report.sagas.total() <= 42
    assert report.open_steps.total() + report.owed.total() > 0
    await stage.serve()
    await check_ends(stage, 42)
    await check_nothing_twice(stage)


async def check_nothing_twice(stage: Stage) -> None:
    """What the far side had taken was never sent again; and a sleeping owner of before cannot pass the fence."""
    again = await stage.far_pool.fetch(
        "SELECT key FROM far_call JOIN far_order USING (key) WHERE kind = 'place' GROUP BY key HAVING count(*) > 1"
    )
    asked = {row["key"] for row in await stage.far_pool.fetch("SELECT key FROM far_call WHERE kind = 'query'")}
    assert {row["key"] for row in again} <= asked
    assert await stage.far_pool.fetchval("SELECT max(taken) FROM far_order") == 1
    assert await stage.bench.pool.fetchval("SELECT min(epoch) FROM lane WHERE topic LIKE '%.events'") > 2**30
