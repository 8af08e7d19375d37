"""One schedule: everything that a seed draws, its run, and the result."""

import asyncio
from collections import Counter
from collections.abc import Generator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import structlog

from tradesaga.consumers.testing.simulation import invariants
from tradesaga.consumers.testing.simulation.fault_actions import draw_faults, trigger_fault
from tradesaga.consumers.testing.simulation.loop import StuckError, current
from tradesaga.consumers.testing.simulation.samples import SimulatedSaga
from tradesaga.consumers.testing.simulation.world import Fault, World
from tradesaga.infra.failpoints import listen
from tradesaga.sagas.status import Status
from tradesaga.schemas.messages.lifecycle import RetryRequested

SAGAS: Final = 3
ONE_MORE: Final = 0.2
"""Number of sagas of a schedule, and the chance of one more."""
SPREAD: Final = 0.15
"""Maximum virtual seconds between two starts."""
FAULTS_END: Final = 12.0
"""Virtual seconds after which no more faults occur."""
PATIENCE: Final = 120.0
"""Virtual seconds within which all work has to finish after the last fault."""
OPERATES: Final = 0.06
"""The chance, twice a virtual second, that an operator retries failed sagas while faults still occur."""
ECHOES: Final = 0.3
"""The chance that old records are published again once all work is finished."""
_ABOVE_CRITICAL: Final = 50
_UNTRACED: Final = {"event", "exc_info", "saga_id"}
ROUNDS: Final = 4
"""Number of times that an operator retries the failed sagas that can be repaired."""


@dataclass(frozen=True)
class Result:
    """The result of one schedule. `faults` are all that were planned."""

    seed: int
    violations: Sequence[str]
    faults: Sequence[Fault]
    hash: str
    hits: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    figures: Counter[str] = field(default_factory=Counter[str])
    trace: Sequence[str] = ()


def run(simulated: SimulatedSaga, seed: int, faults: Sequence[Fault] | None = None, *, traced: bool = False) -> Result:
    """Run one schedule. The same arguments give the same result in any process. `faults` replaces the drawn ones."""
    chance = Random(f"{seed} faults")  # noqa: S311 - draws schedules, guards nothing
    chosen = draw_faults(seed, chance) if faults is None else list(faults)
    world = World(seed, simulated, chosen)
    with capture_logs(world if traced else None), listen(lambda failpoint: trigger_fault(world, failpoint)):
        try:
            violations = world.loop.run(_play(world))
        except StuckError as error:
            violations = [f"virtual time stands still: {error}"]
    unknown = sorted(world.database.unknown)
    violations += [f"the simulation has no function for this statement: {query}" for query in unknown]
    violations += [f"uncaught exception: {each.get('message')} {each.get('exception')!r}" for each in world.loop.errors]
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
    left = await _wait_until_settled(world)
    for _ in range(ROUNDS):
        if left or not _retry_failed(world):
            break
        left = await _wait_until_settled(world)
    if not left and world.chance.random() < ECHOES:
        world.republish(0.999 * world.chance.random())
        left = await _wait_until_settled(world)
    return left or invariants.check(world)


async def _end_faults(world: World) -> None:
    """End all faults, and let frozen processes resume."""
    world.faults.clear()
    world.database.tables["hold"].clear()
    world.broker.down_until = 0.0
    world.processes.thaw_all()
    await asyncio.sleep(0.5)


async def _wait_until_settled(world: World) -> list[str]:
    """Wait until all work is finished; return the unfinished work after `PATIENCE`."""
    until = world.loop.time() + PATIENCE
    while left := invariants.unfinished(world):
        if world.loop.time() > until:
            return [f"unfinished after {PATIENCE:g} s: {each}" for each in left]
        await asyncio.sleep(0.25)
    return []


def _retry_failed(world: World) -> bool:
    """Retry failed sagas as an operator; return whether there were any."""
    world.far.opened = True
    machine = invariants.machine_of(world)
    asked = False
    for saga in world.sagas:
        state = invariants.state_of(world, saga.saga_id)
        if state is None or machine.status(state) is not Status.FAILED or world.simulated.stuck(saga.start):
            continue
        for step in machine.missing(state):
            world.publish(saga.saga_id, RetryRequested(operator="ann", reason="repaired", step=step))
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
    """Remove faults one by one while the schedule still fails; return its run with the remaining ones, traced."""
    kept = list(result.faults)
    for fault in result.faults:
        fewer = [each for each in kept if each is not fault]
        if run(simulated, result.seed, fewer).violations:
            kept = fewer
    return run(simulated, result.seed, kept, traced=True)


@contextmanager
def capture_logs(world: World | None) -> Generator[None]:
    """Send structlog's events to the world's trace, or drop them, while the context is open."""
    former = structlog.get_config()

    def note(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        if world is not None:
            shown = [f"{name}={value}" for name, value in event.items() if name not in _UNTRACED]
            world.note(current().name, "log:", event.get("event"), *shown)
        raise structlog.DropEvent

    level = 0 if world is not None else _ABOVE_CRITICAL
    wrapper = structlog.make_filtering_bound_logger(level)
    structlog.configure(processors=[note], wrapper_class=wrapper, cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**former)
