"""The database is lost: it is made anew from the topics, and everything goes on as if nothing had been."""

from collections import Counter

import pytest

from tests.recovery.ends import PLANS, check_ends, check_nothing_twice
from tests.recovery.stage import Stage
from tradesaga.consumers.recovery.comparison import compare
from tradesaga.consumers.recovery.rebuild import RebuildRequest
from tradesaga.schemas.messages.lifecycle import RetryRequested

pytestmark = pytest.mark.stack

REBUILT = RebuildRequest("rebuilt", "tester")


async def test_a_rebuilt_database_equals_the_lost_one(stage: Stage) -> None:
    """Sagas of all ends, and the database made from their topics is the same in every field that facts can tell."""
    await stage.serve()
    for number in range(28):
        plan = PLANS[number % len(PLANS)][0]
        await stage.knock(f"k{number}", **plan)
    shut = await stage.knock("shut", close="shut")
    del stage.asked["shut"]
    await check_ends(stage)
    await stage.bench.settled(shut, "FAILED")
    await stage.stop()
    lived = stage.url
    rebuilt = await stage.new_database()
    report = await stage.rebuild(REBUILT)
    found = await compare(lived, rebuilt)
    assert found.equal, found.lines()
    assert found.rows["saga"] == 29
    assert found.rows["step_execution"] > 60
    assert report.open_steps.total() == 0
    assert +report.owed == Counter()
    # The failed step has its input again: a person may have it run once more.
    await stage.serve()
    await stage.bench.far.place(f"{shut}:open")
    await stage.bench.say(shut, RetryRequested(step="close", operator="tester", reason="it is open"))
    assert (await stage.bench.settled(shut, "COMPLETED"))["state"] == "COMPLETED"


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
    await check_ends(stage)
    await check_nothing_twice(stage)


async def test_a_restored_database_takes_in_what_it_missed(stage: Stage) -> None:
    """Back at an earlier moment, with sagas in mid-flight then and now: all end, and no effect is made twice."""
    await stage.serve()
    for number in range(21):
        await stage.knock(f"k{number}", **PLANS[number % len(PLANS)][0])
    await stage.reached(5)
    await stage.stop()
    lived = stage.url
    stage.hang_up()
    backup = await stage.new_database(lived.rsplit("/", 1)[1])
    await stage.use(lived)
    await stage.serve()
    for number in range(21, 42):
        await stage.knock(f"k{number}", **PLANS[number % len(PLANS)][0])
    await stage.reached(16)
    await stage.lose_database()
    await stage.stop()
    await stage.use(backup)
    report = await stage.rebuild(RebuildRequest("restored", "tester"))
    assert report.restored.total() > 0
    await stage.serve()
    await check_ends(stage)
    await check_nothing_twice(stage)
