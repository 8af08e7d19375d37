"""What the sagas of the run are to go through by their own plan, drawn from the seed.

reserve, charge, order   refuse: the step refuses           charge  fail: its first attempt raises
order   late: takes effect, answers after the time-out      order   slow: reaches the exchange after its own expiry
fill    lost: the exchange never fills                      settle  fail: never succeeds, so that a person is needed
uncharge  impossible: the fee cannot be given back, so that a person is needed
"""

from random import Random
from typing import Final

REFUSING: Final = ({"reserve": "refuse"}, {"charge": "refuse"}, {"order": "refuse"}, {"fill": "lost"})
SLOW: Final = ({"order": "late"}, {"order": "slow"}, {"charge": "fail"})
STUCK: Final = ({"settle": "fail"}, {"fill": "lost", "uncharge": "impossible"})

REFUSED_SHARE: Final = 0.25
SLOW_SHARE: Final = 0.05
STUCK_SHARE: Final = 0.01


def draw_plan(chance: Random) -> dict[str, str]:
    """Draw how one saga is to go: a quarter fails, some are slow, a few end with a person."""
    number = chance.random()
    for share, plans in ((STUCK_SHARE, STUCK), (REFUSED_SHARE, REFUSING), (SLOW_SHARE, SLOW)):
        if number < share:
            return dict(chance.choice(plans))
        number -= share
    return {}


def may_complete(plan: dict[str, str]) -> bool:
    """Say whether a saga of this plan may end COMPLETED."""
    return not any(plan.get(step) == "refuse" for step in ("reserve", "charge", "order")) and (
        "fill" not in plan and "settle" not in plan
    )


def needs_person(plan: dict[str, str]) -> bool:
    """Say whether a saga of this plan may end FAILED."""
    return "settle" in plan or "uncharge" in plan
