"""The effect of each kind of fault on the simulated world and on the process that reached the failpoint."""

from collections.abc import Callable, Mapping
from typing import Final

from tradesaga.consumers.testing.simulation.connection import SimConnection
from tradesaga.consumers.testing.simulation.loop import Process, ProcessGoneError, current
from tradesaga.consumers.testing.simulation.processes import SESSION_MS
from tradesaga.consumers.testing.simulation.world import FaultKind, World
from tradesaga.infra.failpoints import Failpoint
from tradesaga.schemas.messages.lifecycle import AbortRequested, RetryRequested

COIN: Final = 0.5
SKEW: Final = 0.9
"""Seconds by which the far side's clock may be off: beyond a second, "not found" could deceive."""
LEAP: Final = 30.0
LEAPS: Final = 0.3
"""Seconds by which the clock of a process may leap, one way or the other half of it, and how often one does."""


LATE: Final = 3.0
PATIENT: Final = 11.0
"""Virtual seconds after which a fault takes the next failpoint that comes along; the schedule's own waits longer."""


def trigger_fault(world: World, failpoint: Failpoint) -> None:
    """Trigger the fault that is due at this failpoint. Raises `ProcessGoneError` in a process that it kills."""
    if not world.faults:
        return
    process = current()
    if process.dead or process is world.loop.outside:
        return
    world.reached[failpoint] += 1
    number, now = world.reached[failpoint], world.loop.time()
    for fault in world.faults:
        if now > (PATIENT if fault.nth == 1 else LATE) or (fault.failpoint is failpoint and number >= fault.nth):
            world.faults.remove(fault)
            world.note(process.name, failpoint, str(fault))
            world.hits[failpoint, fault.kind] += 1
            _ACTIONS[fault.kind](world, process, fault.draw)
            return


def crash(world: World, process: Process, draw: float) -> None:
    """Kill the process here and now; another takes its place after a while."""
    world.processes.kill(process, restart=0.05 + draw * 2)
    raise ProcessGoneError


def zombie(world: World, process: Process, draw: float) -> None:
    """Stop the process for longer than its session, so that others get its lanes while it sleeps."""
    world.processes.freeze(process, SESSION_MS / 1000 * (1.1 + draw * 2))


def pause(world: World, process: Process, draw: float) -> None:
    """Stop the process for less than its session."""
    world.processes.freeze(process, SESSION_MS / 1000 * draw)


def rebalance(world: World, process: Process, draw: float) -> None:  # noqa: ARG001 - a fault action's signature
    """Rebalance every group, as when a member joins or leaves."""
    for group in world.broker.groups.values():
        group.rebalance()


def early_delivery(world: World, process: Process, draw: float) -> None:
    """Share out anew, and deliver records well before saying so."""
    for slot in world.processes.slots:
        if slot.process is not None:
            world.broker.planned(slot.process).callback_late = draw
    rebalance(world, process, draw)


def reused_generation(world: World, process: Process, draw: float) -> None:
    """Stop the process past its session, and take its commits all the same once it is back."""
    world.broker.planned(process).reuses_generation = True
    zombie(world, process, draw)


def cut_commit(world: World, process: Process, draw: float) -> None:
    """Break the connection when the next COMMIT is sent, or when it is done and not answered."""
    for connection in _connections(world, process):
        connection.cut = "before" if draw < COIN else "after"


def cut_connection(world: World, process: Process, draw: float) -> None:  # noqa: ARG001
    """End the process' sessions at the server."""
    for connection in _connections(world, process):
        connection.end()


def conflict(world: World, process: Process, draw: float) -> None:
    """Make the next statements fail with a serialization error."""
    for connection in _connections(world, process):
        connection.conflicts = 1 + int(draw * 3)


def slow_database(world: World, process: Process, draw: float) -> None:
    """Delay the next statement or COMMIT."""
    for connection in _connections(world, process):
        connection.slow = draw * 2


def lost_ack(world: World, process: Process, draw: float) -> None:
    """Append what the process sends next, and lose the answer."""
    world.broker.planned(process).acks += [""] * int(draw * 3) + ["lost"]


def failed_send(world: World, process: Process, draw: float) -> None:
    """Fail what the process sends next; its producer is poisoned from then on."""
    world.broker.planned(process).acks += [""] * int(draw * 3) + ["failed"]


def duplicate_append(world: World, process: Process, draw: float) -> None:
    """Append what the process sends next twice."""
    world.broker.planned(process).acks += ["twice"] * (1 + int(draw * 4))


def fetch_error(world: World, process: Process, draw: float) -> None:
    """Fail the next fetches, after part of what they brought has been passed."""
    world.broker.planned(process).fetch_fails = 1 + int(draw * 2)


def broker_down(world: World, process: Process, draw: float) -> None:  # noqa: ARG001
    """Take the broker down for a while."""
    world.broker.down_until = world.loop.time() + draw * 2


def republish(world: World, process: Process, draw: float) -> None:  # noqa: ARG001
    """Republish old records."""
    world.republish(draw)


def duplicate_start(world: World, process: Process, draw: float) -> None:  # noqa: ARG001
    """Start a saga a second time, under the same key."""
    if world.sagas:
        saga = world.sagas[int(draw * len(world.sagas))]
        world.publish(saga.saga_id, saga.start)


def abort(world: World, process: Process, draw: float) -> None:  # noqa: ARG001
    """Abort a saga as an operator would."""
    if world.sagas:
        saga = world.sagas[int(draw * len(world.sagas))]
        world.publish(saga.saga_id, AbortRequested(operator="ann", reason="drawn"))


def retry(world: World, process: Process, draw: float) -> None:  # noqa: ARG001
    """Retry a step as an operator would, whether or not it has failed."""
    steps = world.simulated.saga.steps
    if world.sagas:
        saga = world.sagas[int(draw * len(world.sagas))]
        step = steps[int(draw * 7919) % len(steps)].name
        world.publish(saga.saga_id, RetryRequested(operator="ann", reason="drawn", step=step))


def slow_far_side(world: World, process: Process, draw: float) -> None:  # noqa: ARG001
    """Delay the next requests to the far side."""
    world.far.words += ["slow"] * (1 + int(draw * 3))


def lost_answer(world: World, process: Process, draw: float) -> None:  # noqa: ARG001
    """Lose the far side's answers to the next requests."""
    world.far.words += ["lost" if draw < COIN else "unknown"] * (1 + int(draw * 7) % 3)


def clock_jump(world: World, process: Process, draw: float) -> None:
    """Set clocks wrong: that of the process by a lot at times, those of the servers by a little."""
    process.clock_offset = (draw - COIN) * (LEAP if draw * 37 % 1 < LEAPS else SKEW)
    world.far.clock_offset = (draw * 13 % 1 - COIN) * SKEW
    world.broker.clock_offset = (draw * 31 % 1 - COIN) * 4
    world.database.clock_offset = max(world.database.clock_offset, draw * 17 % 1)


def _connections(world: World, process: Process) -> list[SimConnection]:
    slot = world.processes.slot_of(process)
    return list(slot.pool.used) if slot is not None and slot.pool is not None else []


_ACTIONS: Final[Mapping[FaultKind, Callable[[World, Process, float], None]]] = {
    FaultKind.CRASH: crash,
    FaultKind.ZOMBIE: zombie,
    FaultKind.PAUSE: pause,
    FaultKind.REBALANCE: rebalance,
    FaultKind.EARLY_DELIVERY: early_delivery,
    FaultKind.REUSED_GENERATION: reused_generation,
    FaultKind.CUT_COMMIT: cut_commit,
    FaultKind.CUT_CONNECTION: cut_connection,
    FaultKind.CONFLICT: conflict,
    FaultKind.SLOW_DATABASE: slow_database,
    FaultKind.LOST_ACK: lost_ack,
    FaultKind.FAILED_SEND: failed_send,
    FaultKind.DUPLICATE_APPEND: duplicate_append,
    FaultKind.FETCH_ERROR: fetch_error,
    FaultKind.BROKER_DOWN: broker_down,
    FaultKind.REPUBLISH: republish,
    FaultKind.DUPLICATE_START: duplicate_start,
    FaultKind.ABORT: abort,
    FaultKind.RETRY: retry,
    FaultKind.SLOW_FAR_SIDE: slow_far_side,
    FaultKind.LOST_ANSWER: lost_answer,
    FaultKind.CLOCK_JUMP: clock_jump,
}
