# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""The topics are lost: they are made anew from the database, and everything goes on."""

import asyncio
from collections import Counter

import pytest

from consumers.intake import Intake
from consumers.recovery.comparison import compare
from consumers.recovery.rebuild import Wish
from consumers.recovery.topics import republish
from consumers.runtime.processor import StepProcessor
from schemas.topics import saga_topics
from tests.broker import delete_topics
from tests.keys import KEYS
from tests.recovery.ends import PLANS, check_ends, check_nothing_twice
from tests.recovery.stage import Stage, ignore

pytestmark = pytest.mark.stack


async def lose_topics(stage: Stage) -> None:
    """Delete every topic of the saga, and wait until they are gone."""
    names = [topic.name for topic in saga_topics(stage.bench.saga.name)]
    await asyncio.to_thread(delete_topics, stage.bench.kafka, names)


async def test_everything_goes_on_with_topics_written_anew(stage: Stage) -> None:
    """Sagas in mid-flight, steps ahead of the saga log: the topics come back, all end, and nothing is done twice.

    A database rebuilt from the topics that came back equals the one they were written from, times and hashes included.
    """
    await stage.serve()
    for number in range(42):
        await stage.knock(f"k{number}", **PLANS[number % len(PLANS)][0])
    await stage.reached(12)
    await stage.bench.stop()
    # The steps go on, and sagas begin, while nobody folds: what is said then is in the outboxes alone.
    for participant in (stage.bench.kit.desk, stage.bench.kit.port):
        await stage.bench.run(StepProcessor(participant)).ready()
    await stage.bench.run(Intake(stage.bench.saga, KEYS)).ready()
    for number in range(42, 49):
        await stage.knock(f"k{number}", **PLANS[number % len(PLANS)][0])
    await stage.ran_ahead()
    await stage.stop()
    await lose_topics(stage)
    report = await republish(stage.settings, stage.casts, "tester", ignore, ignore)
    assert report.records["events"] > 100
    assert report.records["facts not folded yet"] > 0
    await stage.forget_unknown()
    await stage.serve()
    await check_ends(stage)
    await check_nothing_twice(stage)
    await stage.stop()
    lived = stage.url
    rebuilt = await stage.new_database()
    again = await stage.rebuild(Wish("rebuilt", "tester"))
    found = await compare(lived, rebuilt)
    assert found.equal, found.lines()
    assert +again.owed == Counter()
