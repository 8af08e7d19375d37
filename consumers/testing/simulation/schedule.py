"""One schedule: a seed, what it draws, and what came of it."""

import asyncio
from collections import Counter
from collections.abc import Generator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import structlog

from tradesaga.consumers.testing.simulation import invariants
from tradesaga.consumers.testing.simulation.fault_actions import trigger_fault
from tradesaga.consumers.testing.simulation.loop import StuckError, current
from tradesaga.consumers.testing.simulation.samples import SimulatedSaga
from tradesaga.consumers.testing.simulation.world import Fault, World, draw_faults
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
_ABOVE_CRITICAL: Final = 50
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


def run(simulated: SimulatedSaga, seed: int, faults: Sequence[Fault] | None = None, *, traced: bool = False) -> Result:
    """Run one schedule; the same arguments give the same result, in any process. `faults` replaces what is drawn."""
    chance = Random(f"{seed} faults")  # noqa: S311 - draws schedules, guards nothing
    drawn = draw_faults(seed, chance)
    chosen = list(drawn if faults is None else faults)
    world = World.of(seed, simulated, chosen)
    with capture_logs(world if traced else None), listen(lambda failpoint: trigger_fault(world, failpoint)):
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
        world.start_saga()
    while world.faults and world.loop.time() < FAULTS_END:
        await asyncio.sleep(0.5)
        if world.chance.random() < OPERATES:
            _retry_failed(world)
    await _end_faults(world)
    why = await _wait_until_settled(world)
    for _ in range(ROUNDS):
        if why or not _retry_failed(world):
            break
        why = await _wait_until_settled(world)
    if not why and world.chance.random() < ECHOES:
        world.republish(0.999 * world.chance.random())
        why = await _wait_until_settled(world)
    return why or invariants.check(world)


async def _end_faults(world: World) -> None:
    """End all that is going wrong, and give what stands still time to go on."""
    world.faults.clear()
    world.broker.down_until = 0.0
    world.processes.thaw_all()
    await asyncio.sleep(0.5)


async def _wait_until_settled(world: World) -> list[str]:
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
        if state is None or machine.status(state) is not Status.FAILED or world.simulated.stuck(saga.start):
            continue
        for step in machine.missing(state):
            world.publish(saga.saga_id, RetryRequested(operator="ann", reason="mended", step=step))
            asked = True
    return asked


def _figures(world: World) -> Counter[str]:
    restarts = sum(slot.worker.health.restarts for slot in world.processes.slots if slot.worker is not None)
    return Counter({
        "sagas": len(world.sagas),
        "faults": world.hits.total(),
        "fenced writes": world.database.fenced,
        "waits for a lock": world.database.waits,
        "rebalances": sum(group.rebalances for group in world.broker.groups.values()),
        "restarts of a session": restarts,
        "lives": sum(slot.life for slot in world.processes.slots),
        "far-side calls": world.far.calls.total(),
        "records": sum(len(log) for logs in world.broker.logs.values() for log in logs),
        "callbacks": world.loop.steps,
        "virtual seconds": int(world.loop.time()),
    })  # fmt: skip


def shorten(simulated: SimulatedSaga, result: Result) -> Result:
    """Remove one fault after the other while the schedule still fails; return the shortest that does."""
    found, kept = result, list(result.faults)
    for fault in result.faults:
        fewer = [each for each in kept if each is not fault]
        again = run(simulated, result.seed, fewer)
        if again.violations:
            found, kept = again, fewer
    return run(simulated, found.seed, kept, traced=True)


@contextmanager
def capture_logs(world: World | None) -> Generator[None]:
    """Send structlog's events to the world's trace, or drop them, while the context is open."""
    former = structlog.get_config()

    def note(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        if world is not None:
            told = {name: value for name, value in event.items() if name not in {"event", "exc_info", "saga_id"}}
            world.note(current().name, "log:", event.get("event"), *(f"{name}={value}" for name, value in told.items()))
        raise structlog.DropEvent

    level = 0 if world is not None else _ABOVE_CRITICAL
    wrapper = structlog.make_filtering_bound_logger(level)
    structlog.configure(processors=[note], wrapper_class=wrapper, cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**former)
