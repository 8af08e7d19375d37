"""More than it can bear: starts at rates below and far above the product's capacity; what it ends must not fall.

They come by the front door, whose intake takes nothing in while enough is under way, or the saga log is behind. Beside
that, for comparison, the most that is offered is put on the topic of facts directly, where nothing holds it back.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from tests.benchmarks.load import Load, Told
from tests.benchmarks.on_kafka import PRODUCT
from tests.benchmarks.scale import measuring
from tests.benchmarks.scale.door import Doored, behind_its_door
from tests.benchmarks.stage import Stage
from tests.benchmarks.system import Running

Say = Callable[[str], None]
FOOT = 0.2
"""The part of an offer's time, at its beginning, that is not counted: a queue has to form first."""


def measure(stage: Stage, multiples: Sequence[float], seconds: float, sagas: int, say: Say) -> dict[str, Any]:
    """Measure the capacity flat out, offer multiples of it at an even rate, and measure the capacity again."""
    with PRODUCT.running(stage) as inside, ExitStack() as stack:
        door = behind_its_door(stack, inside)
        door.run(Load("happy", 0, min(sagas, 500)))
        capacity = _flat_out(door, sagas)
        rows = [_offer(door, multiple, capacity, seconds, say) for multiple in multiples]
        afterwards = _flat_out(door, sagas)
        rows.append(_offer(inside, max(multiples), capacity, seconds, say))
    return {"part": "saturation", "capacity_a_second": capacity, "afterwards_a_second": afterwards, "rows": rows}


def _flat_out(running: Running, sagas: int) -> float:
    return measuring.run(running, Load("happy", 0, sagas)).outcome.per_second


def _offer(running: Running, multiple: float, capacity: float, seconds: float, say: Say) -> dict[str, Any]:
    rate = max(1, round(multiple * capacity))
    told, _, figures = measuring.run(running, Load("happy", rate, max(2, round(rate * seconds))))
    ended = _while_offered(told)
    door = "front door" if isinstance(running, Doored) else "none"
    say(f"{multiple:g} of capacity, {rate:,} a second offered, door: {door}: {ended:,.0f} ended a second meanwhile")
    return {"door": door, "multiple": multiple, "offered_a_second": rate, "ended_meanwhile_a_second": ended, **figures}


def _while_offered(told: Told) -> float:
    """Give the ends a second while sagas were still being offered, by the times of their commits."""
    first, last = min(told.starts.values()), max(told.starts.values())
    since = first + FOOT * (last - first)
    return sum(since <= end.at <= last for end in told.ends.values()) / (last - since)
