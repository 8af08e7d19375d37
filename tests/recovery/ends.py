"""How the sagas of these tests end, and what must hold of each whatever was lost meanwhile."""

from collections import Counter

from tests.e2e.endings import FORTH, UNDONE
from tests.e2e.endings import PLANS as RESTARTED
from tests.recovery.stage import Stage

PLANS = [
    *RESTARTED,
    ({"ship": "fail"}, "ABORTED", UNDONE),
    ({"ship": "refuse", "unpay": "impossible"}, "FAILED", [*FORTH, ("book", "back")]),
]


async def check_ends(stage: Stage) -> None:
    """Hold every saga that was asked for to its end: state, effects here and at the far side, each once."""
    bench = stage.bench
    for key, saga_id in stage.asked.items():
        number = int(key.removeprefix("k"))
        _plan, state, effects = PLANS[number % len(PLANS)]
        found = await bench.settled(saga_id)
        assert found["state"] == state, (number, bench.tail.names(saga_id))
        done = Counter(await bench.effects(saga_id))
        assert done == Counter(effects), (number, done, bench.tail.names(saga_id))
        assert await stage.far_taken(saga_id) <= 1


async def check_nothing_twice(stage: Stage, *, recovered: bool = True) -> None:
    """What the far side had taken was never sent again; and a sleeping owner of before cannot pass the fence."""
    again = await stage.far_pool.fetch(
        "SELECT key FROM far_call JOIN far_order USING (key) WHERE kind = 'place' GROUP BY key HAVING count(*) > 1"
    )
    asked = {row["key"] for row in await stage.far_pool.fetch("SELECT key FROM far_call WHERE kind = 'query'")}
    assert {row["key"] for row in again} <= asked
    assert await stage.far_pool.fetchval("SELECT max(taken) FROM far_order") == 1
    if recovered:
        assert await stage.bench.pool.fetchval("SELECT min(epoch) FROM lane WHERE topic LIKE '%.events'") > 2**30
