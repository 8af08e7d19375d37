"""The kinds of faults: what each does to the simulated world, and to the process that reached its failpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from tradesaga.consumers.testing.simulation.loop import Process, ProcessGoneError, current
from tradesaga.consumers.testing.simulation.processes import SESSION_MS
from tradesaga.consumers.testing.simulation.world import Fault, StartedSaga, World
from tradesaga.infra.failpoints import Failpoint
from tradesaga.schemas.messages.lifecycle import AbortRequested, RetryRequested

COIN: Final = 0.5
SKEW: Final = 0.9
"""Seconds by which the clock of the far side may be off. From one second on, its "not found" could be wrong."""
LEAP: Final = 30.0
LEAPS: Final = 0.3
"""Seconds within which the clock of a process may jump, half of them in each direction, and the chance of a jump."""
LATE: Final = 3.0
PATIENT: Final = 11.0
"""Virtual seconds after which a fault occurs at the next failpoint of any kind; the schedule's own waits longer."""
LEAST: Final = 5
MOST: Final = 7
_NTH: Final = 8
"""A failpoint is reached at most this often before a fault occurs there, except for the schedule's own fault."""


@dataclass(frozen=True, slots=True)
class FaultSite:
    """Where a fault occurs: the world, the process that reached the failpoint, and a number in [0, 1) for its size."""

    world: World
    process: Process
    draw: float

    @property
    def drawn_sagas(self) -> Sequence[StartedSaga]:
        """Return one of the started sagas; none before the first start."""
        sagas = self.world.sagas
        return [sagas[int(self.draw * len(sagas))]] if sagas else []


FAULTS: Final[dict[str, Callable[[FaultSite], None]]] = {}
"""The action of each kind of fault."""


def fault(action: Callable[[FaultSite], None]) -> Callable[[FaultSite], None]:
    """Register the action of a kind of fault, which is named after the function."""
    FAULTS[action.__name__.replace("_", " ")] = action
    return action


@fault
def crash(at: FaultSite) -> None:
    """Kill the process; another one replaces it after a while."""
    at.world.processes.kill(at.process, restart=0.05 + at.draw * 2)
    raise ProcessGoneError


@fault
def zombie(at: FaultSite) -> None:
    """Stop the process for longer than its session, so that others take over its lanes meanwhile."""
    at.world.processes.freeze(at.process, SESSION_MS / 1000 * (1.1 + at.draw * 2))


@fault
def pause(at: FaultSite) -> None:
    """Stop the process for less than its session."""
    at.world.processes.freeze(at.process, SESSION_MS / 1000 * at.draw)


@fault
def rebalance(at: FaultSite) -> None:
    """Rebalance every group, as when a member joins or leaves."""
    for group in at.world.broker.groups.values():
        group.rebalance()


@fault
def early_delivery(at: FaultSite) -> None:
    """Rebalance, and deliver records well before the callback for the assignment."""
    for slot in at.world.processes.slots:
        if slot.process is not None:
            at.world.broker.planned(slot.process).callback_late = at.draw
    rebalance(at)


@fault
def reused_generation(at: FaultSite) -> None:
    """Stop the process for longer than its session, and accept its commits all the same once it is back."""
    at.world.broker.planned(at.process).reuses_generation = True
    zombie(at)


@fault
def cut_commit(at: FaultSite) -> None:
    """Break the connections before the next COMMIT, or after it and before its answer."""
    for connection in at.world.processes.connections(at.process):
        connection.cut = "before" if at.draw < COIN else "after"


@fault
def cut_connection(at: FaultSite) -> None:
    """End the database sessions of the process at the server."""
    for connection in at.world.processes.connections(at.process):
        connection.end()


@fault
def conflict(at: FaultSite) -> None:
    """Fail the next statements with serialization errors."""
    for connection in at.world.processes.connections(at.process):
        connection.conflicts = 1 + int(at.draw * 3)


@fault
def slow_database(at: FaultSite) -> None:
    """Delay the next statement or COMMIT."""
    for connection in at.world.processes.connections(at.process):
        connection.slow = at.draw * 2


@fault
def lost_ack(at: FaultSite) -> None:
    """Append one of the next records without an acknowledgement."""
    at.world.broker.planned(at.process).acks += [""] * int(at.draw * 3) + ["lost"]


@fault
def failed_send(at: FaultSite) -> None:
    """Fail one of the next records, after which the producer is unusable."""
    at.world.broker.planned(at.process).acks += [""] * int(at.draw * 3) + ["failed"]


@fault
def duplicate_append(at: FaultSite) -> None:
    """Append the next records twice."""
    at.world.broker.planned(at.process).acks += ["twice"] * (1 + int(at.draw * 4))


@fault
def fetch_error(at: FaultSite) -> None:
    """Fail the next fetches after some of their records have been skipped."""
    at.world.broker.planned(at.process).fetch_fails = 1 + int(at.draw * 2)


@fault
def broker_down(at: FaultSite) -> None:
    """Make the broker unavailable for a while."""
    at.world.broker.down_until = at.world.loop.time() + at.draw * 2


@fault
def republish(at: FaultSite) -> None:
    """Publish old records again."""
    at.world.republish(at.draw)


@fault
def duplicate_start(at: FaultSite) -> None:
    """Start a saga a second time, under the same key."""
    for saga in at.drawn_sagas:
        at.world.publish(saga.saga_id, saga.start)


@fault
def abort(at: FaultSite) -> None:
    """Abort a saga as an operator."""
    for saga in at.drawn_sagas:
        at.world.publish(saga.saga_id, AbortRequested(operator="ann", reason="drawn"))


@fault
def retry(at: FaultSite) -> None:
    """Retry a step as an operator, whether or not it has failed."""
    steps = at.world.simulated.saga.steps
    for saga in at.drawn_sagas:
        step = steps[int(at.draw * 7919) % len(steps)].name
        at.world.publish(saga.saga_id, RetryRequested(operator="ann", reason="drawn", step=step))


@fault
def paused_sagas(at: FaultSite) -> None:
    """Pause all sagas as an operator, and resume them after a while, at any moment of a batch."""
    for number, saga in enumerate(at.world.sagas):
        until = at.world.database.now() + at.draw * 3 * (1 + number) / len(at.world.sagas)
        at.world.database.tables["hold"]["saga", str(saga.saga_id)] = until


@fault
def slow_far_side(at: FaultSite) -> None:
    """Delay the next requests to the far side."""
    at.world.far.failures += ["slow"] * (1 + int(at.draw * 3))


@fault
def lost_answer(at: FaultSite) -> None:
    """Lose the far side's answers to the next requests."""
    at.world.far.failures += ["lost" if at.draw < COIN else "unknown"] * (1 + int(at.draw * 7) % 3)


@fault
def clock_jump(at: FaultSite) -> None:
    """Set clocks wrong: that of the process by a lot at times, those of the servers by a little."""
    world, draw = at.world, at.draw
    at.process.clock_offset = (draw - COIN) * (LEAP if draw * 37 % 1 < LEAPS else SKEW)
    world.far.clock_offset = (draw * 13 % 1 - COIN) * SKEW
    world.broker.clock_offset = (draw * 31 % 1 - COIN) * 4
    world.database.clock_offset = max(world.database.clock_offset, draw * 17 % 1)


CELLS: Final[Sequence[tuple[Failpoint, str]]] = [(failpoint, kind) for kind in FAULTS for failpoint in Failpoint]
"""Every failpoint with every kind of fault. Schedule n includes cell n, so that each of them occurs."""


def draw_faults(seed: int, chance: Random) -> list[Fault]:
    """Draw the faults of one schedule."""
    first, kind = CELLS[seed % len(CELLS)]
    faults = [Fault(first, 1, kind, chance.random())]
    for _ in range(chance.randint(LEAST, MOST) - 1):
        failpoint, kind = CELLS[int(chance.random() * len(CELLS))]
        faults.append(Fault(failpoint, 2 + int(chance.random() * (_NTH - 1)), kind, chance.random()))
    return faults


def trigger_fault(world: World, failpoint: Failpoint) -> None:
    """Trigger the fault that is due at this failpoint. Raises `ProcessGoneError` in a process that it kills."""
    if not world.faults:
        return
    process = current()
    if process.dead or process is world.loop.outside:
        return
    world.reached[failpoint] += 1
    number, now = world.reached[failpoint], world.loop.time()
    for due in world.faults:
        if now > (PATIENT if due.nth == 1 else LATE) or (due.failpoint is failpoint and number >= due.nth):
            world.faults.remove(due)
            world.note(process.name, failpoint, str(due))
            world.hits[failpoint, due.kind] += 1
            FAULTS[due.kind](FaultSite(world, process, due.draw))
            return
