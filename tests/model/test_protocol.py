"""Every state of the protocol keeps its promises, and a protocol with a planted bug is caught."""

from collections import Counter, deque
from dataclasses import dataclass

import pytest

from tests.model.bugs import BarsPastPivot, NeverBars, TakesBackEarly, bar_blindly
from tests.model.small_trade import CONFIRM, PLACE, RESERVE, small_trade
from tests.model.world import Book, Protocol, World
from tradesaga.sagas.facts import Meaning
from tradesaga.sagas.status import Status
from tradesaga.sagas.step_state import RowStatus

FUNDS = "filled on released funds"


@dataclass(frozen=True, slots=True)
class Visited:
    """How many states were seen, how the trades ended, and the way to the first broken promise."""

    states: int
    ends: dict[Status, int]
    broken: str = ""


def visit(protocol: Protocol) -> Visited:
    """Visit every reachable state, breadth first; stop at the first that breaks a promise."""
    first = World()
    came_from: dict[World, tuple[str, World] | None] = {first: None}
    queue, ends = deque([first]), Counter[Status]()
    while queue:
        world = queue.popleft()
        following = list(protocol.moves(world))
        status = protocol.fold(world.log[: world.read]).status
        if broken := find_broken(world, status, stuck=not following):
            return Visited(len(came_from), dict(ends), f"{broken} <- {_path(came_from, world)}")
        if not following:
            ends[status] += 1
        for name, each in following:
            if each not in came_from:
                came_from[each] = (name, world)
                queue.append(each)
    return Visited(len(came_from), dict(ends))


def _path(came_from: dict[World, tuple[str, World] | None], world: World) -> str:
    names: list[str] = []
    while (step := came_from[world]) is not None:
        names.append(step[0])
        world = step[1]
    return " · ".join(reversed(names))


def find_broken(world: World, status: Status, *, stuck: bool) -> str:
    """Name the promise that this state breaks, if any; `stuck` means that nothing more will ever happen."""
    filled, released = world.book is Book.FILLED, RESERVE in world.undone
    if list(world.undone) != sorted(world.undone, reverse=True):
        return "not last first"
    if filled and released:
        return FUNDS
    whole = world.rows[RESERVE] is RowStatus.DONE and filled and world.settled
    if status is Status.COMPLETED and not whole:
        return "completed without its effects"
    if not stuck:
        return ""
    stands = world.rows[RESERVE] is RowStatus.DONE or world.book in {Book.RESTING, Book.FILLED} or world.settled
    if status is Status.ABORTED and stands:
        return "aborted with something standing"
    if status not in {Status.COMPLETED, Status.ABORTED, Status.FAILED}:
        return f"hangs in {status}"
    excused = world.said(Meaning.CONTRADICTED, CONFIRM) or world.said(Meaning.COMPENSATION_FAILED, PLACE)
    return "failed for no reason" if status is Status.FAILED and not excused else ""


def test_every_reachable_state_keeps_every_promise() -> None:
    """Late calls, lost answers, time-outs, deadlines and bars in any order: whole, taken back, or rightly FAILED."""
    visited = visit(Protocol())

    assert visited.broken == ""
    assert visited.states == 2_101
    assert visited.ends.keys() == {Status.COMPLETED, Status.ABORTED}


@pytest.mark.parametrize(
    ("protocol", "broken"),
    [
        pytest.param(Protocol(NeverBars(small_trade)), FUNDS, id="nobar"),
        pytest.param(Protocol(TakesBackEarly(small_trade)), FUNDS, id="early"),
        pytest.param(Protocol(sends_again_early=True), FUNDS, id="lateretry"),
        pytest.param(Protocol(BarsPastPivot(small_trade)), "failed for no reason", id="pastpivot"),
        pytest.param(Protocol(decide=bar_blindly), FUNDS, id="norow"),
    ],
)
def test_a_planted_bug_is_found(protocol: Protocol, broken: str) -> None:
    """The model is worth its states: each of five known ways to lose money breaks a promise in it."""
    assert visit(protocol).broken.startswith(broken)
