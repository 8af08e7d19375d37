"""A: processes die, at random and at each named failpoint; so does the exchange."""

import asyncio
import signal
import time
from typing import Final

from tests.faults.crew import Member
from tests.faults.stage import Stage
from tradesaga.infra.failpoints import Failpoint

PLACES: Final = {
    Failpoint.IN_CLAIM: ("desk", "market", "log", "front"),
    Failpoint.BEFORE_COMMIT: ("desk", "market", "log", "front"),
    Failpoint.AFTER_COMMIT: ("desk", "market", "log", "front"),
    Failpoint.IN_PUBLISH: ("desk", "market", "log", "front"),
    Failpoint.AFTER_PUBLISH: ("desk", "market", "log", "front"),
    Failpoint.BEFORE_MARK: ("desk", "market", "log"),
    Failpoint.AFTER_MARK: ("desk", "market", "log"),
    Failpoint.BEFORE_OFFSET_COMMIT: ("desk", "market", "log"),
    Failpoint.AFTER_OFFSET_COMMIT: ("desk", "market", "log"),
    Failpoint.BEFORE_CALL: ("market",),
    Failpoint.AFTER_CALL: ("market",),
    Failpoint.IN_COMPENSATION: ("desk", "market"),
}
SELDOM: Final = {
    Failpoint.BEFORE_MARK, Failpoint.AFTER_MARK, Failpoint.BEFORE_OFFSET_COMMIT, Failpoint.AFTER_OFFSET_COMMIT,
}  # fmt: skip
"""Places that a process comes to once in some seconds."""
AT_ONCE: Final = 4
"""Processes that die in one act."""
MOST_ACTS: Final = 7
PATIENCE: Final = 15.0
"""Seconds in which a process should come to its failpoint."""


async def kill_anybody(stage: Stage) -> None:
    """Kill one process, or two of different services."""
    members = stage.chance.sample(list(stage.crew.members.values()), stage.chance.choice([1, 2]))
    async with stage.fault(f"kill -9 {', '.join(member.name for member in members)}"):
        for member in members:
            member.send(signal.SIGKILL)
        await asyncio.sleep(stage.chance.uniform(1.0, 2.0))


async def kill_at_every_failpoint(stage: Stage) -> None:
    """Go on until somebody has died at each."""
    for _ in range(MOST_ACTS):
        if not stage.notes.missed():
            return
        await kill_at_failpoints(stage)


async def kill_at_failpoints(stage: Stage) -> None:
    """Have some processes die at failpoints of their own, those first at which the fewest have died."""
    free = stage.crew.of("desk", "market", "log", "front")
    chosen: list[tuple[Failpoint, Member]] = []
    for place in sorted(PLACES, key=lambda place: (stage.notes.fallen.get(place.value, 0), len(PLACES[place]))):
        able = [member for member in free if member.service in PLACES[place]]
        if able and len(chosen) < AT_ONCE:
            member = stage.chance.choice(able)
            free.remove(member)
            chosen.append((place, member))
    async with stage.fault(f"kill at {', '.join(place for place, _ in chosen)}"):
        await asyncio.gather(*(_fall(stage, place, member) for place, member in chosen))


async def _fall(stage: Stage, place: Failpoint, member: Member) -> None:
    """Wait until the process has died at the failpoint; the one in claiming is met by its next life only."""
    deaths, wanted = member.deaths, 1
    if place is Failpoint.IN_CLAIM:
        wanted = 2
        stage.crew.fall_at(member, place, 1)
    else:
        member.arm("kill", place, 1 if place in SELDOM else stage.chance.randint(1, 3))
    until = time.monotonic() + PATIENCE * wanted
    while time.monotonic() < until:
        if member.deaths >= deaths + wanted:
            stage.notes.fallen[place.value] = stage.notes.fallen.get(place.value, 0) + 1
            return
        await asyncio.sleep(0.1)
    member.send(signal.SIGKILL)  # or it would fall some time later, unnoticed


async def kill_exchange(stage: Stage) -> None:
    """Kill the exchange: what is under way there is unknown."""
    async with stage.fault("kill -9 the exchange"):
        await stage.exchange.kill()
        await asyncio.sleep(stage.chance.uniform(1.0, 3.0))
        await stage.exchange.start()
