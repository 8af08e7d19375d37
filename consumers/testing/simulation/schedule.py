"""One schedule: a seed, what it draws, and what came of it."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from tradesaga.consumers.testing.simulation import invariants
from tradesaga.consumers.testing.simulation.fault_actions import meet
from tradesaga.consumers.testing.simulation.faults import Fault, draw_faults
from tradesaga.consumers.testing.simulation.log_capture import silent_logs
from tradesaga.consumers.testing.simulation.loop import StuckError
from tradesaga.consumers.testing.simulation.simulated_saga import Subject
from tradesaga.consumers.testing.simulation.world import World
from tradesaga.infra.failpoints import listen
from tradesaga.sagas.status import Status
from tradesaga.schemas.messages.lifecycle import RetryRequested

SAGAS: Final = 3
ONE_MORE: Final = 0.2
"""Sagas of a schedule, and the chance of another."""
SPREAD: Final = 0.15
"""Virtual seconds between two starts at most."""
FAULTS_END: Final = 12.0
"""Virtual seconds after which no fault is begun any more."""
PATIENCE: Final = 120.0
"""Virtual seconds within which everything has to come to rest once nothing goes wrong any more."""
OPERATES: Final = 0.06
"""The chance, twice a virtual second, that an operator looks after failed sagas while things still go wrong."""
ECHOES: Final = 0.3
"""The chance that old records come again once all is done."""
ROUNDS: Final = 4
"""Times that an operator retries what has failed and can be mended."""


@dataclass(frozen=True)
class Result:
    """What came of one schedule."""

    seed: int
    violations: Sequence[str]
    faults: Sequence[Fault]
    hash: str
    hits: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    figures: Counter[str] = field(default_factory=Counter[str])
    trace: Sequence[str] = ()


def run(subject: Subject, seed: int, faults: Sequence[Fault] | None = None, *, traced: bool = False) -> Result:
    """Run one schedule; the same arguments give the same result, in any process. `faults` replaces what is drawn."""
    chance = Random(f"{seed} faults")  # noqa: S311 - draws schedules, guards nothing
    drawn = draw_faults(seed, chance)
    chosen = list(drawn if faults is None else faults)
    world = World.of(seed, subject, chosen)
    with silent_logs(world if traced else None), listen(lambda failpoint: meet(world, failpoint)):
        try:
            violations = world.loop.run(_play(world))
        except StuckError as error:
            violations = [f"no time passes: {error}"]
    violations += [f"nobody simulates this statement: {query}" for query in sorted(world.database.unknown)]
    violations += [f"uncaught: {each.get('message')} {each.get('exception')!r}" for each in world.loop.errors]
    trace = tuple(f"{at:10.6f} {' '.join(map(str, what))}" for at, *what in world.trace) if traced or violations else ()
    return Result(seed, violations, chosen, world.hash(), world.hits, _figures(world), trace)


async def _play(world: World) -> list[str]:
    world.begin()
    for _ in range(SAGAS + (world.chance.random() < ONE_MORE)):
        await asyncio.sleep(SPREAD * world.chance.random() ** 2)
        world.ask()
    while world.faults and world.loop.time() < FAULTS_END:
        await asyncio.sleep(0.5)
        if world.chance.random() < OPERATES:
            _retry_failed(world)
    await _calm(world)
    why = await _rest(world)
    for _ in range(ROUNDS):
        if why or not _retry_failed(world):
            break
        why = await _rest(world)
    if not why and world.chance.random() < ECHOES:
        world.republish(0.999 * world.chance.random())
        why = await _rest(world)
    return why or invariants.check(world)


async def _calm(world: World) -> None:
    """End all that is going wrong, and give what stands still time to go on."""
    world.faults.clear()
    world.broker.down_until = 0.0
    world.crew.thaw_all()
    await asyncio.sleep(0.5)


async def _rest(world: World) -> list[str]:
    """Wait until nothing is left to do; says what is, where it never ends."""
    until = world.loop.time() + PATIENCE
    while left := invariants.unfinished(world):
        if world.loop.time() > until:
            return [f"not at rest after {PATIENCE:g} s: {each}" for each in left]
        await asyncio.sleep(0.25)
    return []


def _retry_failed(world: World) -> bool:
    """Retry failed sagas as an operator would; return whether there were any."""
    world.far.opened = True
    machine = invariants.machine_of(world)
    asked = False
    for saga in world.sagas:
        state = invariants.state_of(world, saga.saga_id)
        if state is None or machine.status(state) is not Status.FAILED or world.subject.stuck(saga.start):
            continue
        for step in machine.missing(state):
            world.publish(saga.saga_id, RetryRequested(operator="ann", reason="mended", step=step))
            asked = True
    return asked


def _figures(world: World) -> Counter[str]:
    restarts = sum(slot.worker.health.restarts for slot in world.crew.slots if slot.worker is not None)
    return Counter({
        "sagas": len(world.sagas),
        "faults": world.hits.total(),
        "fenced writes": world.database.fenced,
        "waits for a lock": world.database.waits,
        "rebalances": sum(group.rebalances for group in world.broker.groups.values()),
        "restarts of a session": restarts,
        "lives": sum(slot.life for slot in world.crew.slots),
        "far-side calls": world.far.calls.total(),
        "records": sum(len(log) for logs in world.broker.logs.values() for log in logs),
        "callbacks": world.loop.steps,
        "virtual seconds": int(world.loop.time()),
    })  # fmt: skip


def shorten(subject: Subject, result: Result) -> Result:
    """Remove one fault after the other while the schedule still fails; return the shortest that does."""
    found, kept = result, list(result.faults)
    for fault in result.faults:
        fewer = [each for each in kept if each is not fault]
        again = run(subject, result.seed, fewer)
        if again.violations:
            found, kept = again, fewer
    return run(subject, found.seed, kept, traced=True)
