"""Visiting every state of a model, and the promises that each of them is held to."""

from collections import Counter, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Protocol as Shape
from typing import TypeVar

from tests.model.protocol import Known
from tests.model.scene import Move, World
from tests.model.stage import UNDER_WAY, Stage
from tradesaga.sagas.facts import Fact, Meaning
from tradesaga.sagas.status import Status
from tradesaga.sagas.step_state import RowStatus

S = TypeVar("S", bound=Hashable)


class Play(Shape[S]):
    """A model: where it begins, what may follow (name, state, whether nobody waits for it), and what is wrong."""

    def begin(self) -> S:
        """Give the first state."""
        ...

    def follow(self, state: S) -> Iterable[tuple[str, S, bool]]:
        """List what may happen next."""
        ...

    def find_broken(self, state: S, *, rests: bool) -> str:
        """Name the promise that this state breaks; `rests`: nothing more need ever happen."""
        ...

    def describe(self, state: S) -> tuple[Iterable[Status], Iterable[RowStatus | None]]:
        """Give the sagas' states and their rows'."""
        ...


@dataclass(frozen=True, slots=True)
class Visited:
    """How many states there are, which states and rows of a saga, how it ended, and the way to a broken promise."""

    states: int
    ends: Counter[Status]
    statuses: frozenset[Status]
    rows: frozenset[RowStatus | None]
    broken: str = ""


@dataclass
class _Seen:
    ends: Counter[Status] = field(default_factory=Counter[Status])
    statuses: set[Status] = field(default_factory=set[Status])
    rows: set[RowStatus | None] = field(default_factory=set[RowStatus | None])


def visit(play: Play[S]) -> Visited:
    """Visit every reachable state, breadth first; stop at the first that breaks a promise."""
    first = play.begin()
    came_from: dict[S, tuple[str, S] | None] = {first: None}
    queue, seen = deque([first]), _Seen()
    while queue:
        state = queue.popleft()
        rests = True
        for name, following, optional in play.follow(state):
            rests = rests and optional
            if following not in came_from:
                came_from[following] = (name, state)
                queue.append(following)
        statuses, rows = play.describe(state)
        seen.statuses.update(statuses)
        seen.rows.update(rows)
        if rests:
            seen.ends.update(statuses)
        if broken := play.find_broken(state, rests=rests):
            return _visited(len(came_from), seen, f"{broken} <- {_path(came_from, state)}")
    return _visited(len(came_from), seen)


def _visited(states: int, seen: _Seen, broken: str = "") -> Visited:
    return Visited(states, seen.ends, frozenset(seen.statuses), frozenset(seen.rows), broken)


def _path(came_from: dict[S, tuple[str, S] | None], state: S) -> str:
    names: list[str] = []
    while (step := came_from[state]) is not None:
        names.append(step[0])
        state = step[1]
    return " · ".join(reversed(names))


class Solo:
    """One saga by itself."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def begin(self) -> World:
        """Give the moment after the start."""
        return self.stage.begin()

    def follow(self, state: World) -> Iterable[tuple[str, World, bool]]:
        """List what may happen next."""
        for move in self.stage.moves(state):
            if move.world != state:
                yield _named(move), move.world, move.optional

    def find_broken(self, state: World, *, rests: bool) -> str:
        """Name the promise that this state breaks."""
        known = self.stage.protocol.fold(state.log[: state.read])
        return find_broken(self.stage, state, known, rests=rests)

    def describe(self, state: World) -> tuple[Iterable[Status], Iterable[RowStatus | None]]:
        """Give the saga's state and its rows'."""
        known = self.stage.protocol.fold(state.log[: state.read])
        return (known.status,), [part.status for part in state.parts]


class Pair:
    """Two sagas of one definition, which draw on one account; which of them is which makes no difference."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._solo = Solo(stage)

    def begin(self) -> tuple[World, World]:
        """Give the moment after both starts."""
        return self.stage.begin(), self.stage.begin()

    def follow(self, state: tuple[World, World]) -> Iterable[tuple[str, tuple[World, World], bool]]:
        """List what may happen next to either."""
        for side in (0, 1):
            other = state[1 - side]
            for name, world, optional in self._solo.follow(state[side]):
                beside = other if other.free == world.free else other._replace(free=world.free)
                pair = (world, beside) if _before(world, beside) else (beside, world)
                yield f"{'ab'[side]}: {name}", pair, optional

    def find_broken(self, state: tuple[World, World], *, rests: bool) -> str:
        """Name the promise that this state breaks; the account is to hold what nobody has taken."""
        taken = sum(world.parts[self.stage.budget.paid_by].stands for world in state)
        if state[0].free < 0 or state[0].free + taken != self.stage.budget.free:
            return "the account does not add up"
        return next((told for world in state if (told := self._solo.find_broken(world, rests=rests))), "")

    def describe(self, state: tuple[World, World]) -> tuple[Iterable[Status], Iterable[RowStatus | None]]:
        """Give both sagas' states and rows."""
        both = [self._solo.describe(world) for world in state]
        return [each for statuses, _ in both for each in statuses], [each for _, rows in both for each in rows]


def _before(one: World, other: World) -> bool:
    return (one.log, one.read, hash(one)) <= (other.log, other.read, hash(other))


def _named(move: Move) -> str:
    return f"{move.name} {move.step}" if move.step >= 0 else move.name


def find_broken(stage: Stage, world: World, known: Known, *, rests: bool) -> str:
    """Name the promise that this state breaks, if any."""
    stands = [part.stands for part in world.parts]
    if any(part.done > 1 or part.undone > 1 for part in world.parts):
        return "done twice"
    if _under_the_feet(stage, world):
        return "not last first"
    if known.stale:
        return "FAILED for what is over"
    if known.status is Status.COMPLETED and not all(stands) and known.state.resolved is None:
        return "completed without its effects"
    if not rests or known.state.resolved is not None:
        return ""
    return _wrong_at_rest(stage, world, known)


def _under_the_feet(stage: Stage, world: World) -> bool:
    """Say whether something was taken back beneath a later step that stands and could have been taken back first."""
    for step, part in enumerate(world.parts):
        if part.undone and not part.stands:
            for later, above in enumerate(stage.above):
                stuck = world.parts[later].status is RowStatus.COMPENSATION_FAILED or world.parts[later].back_round > 1
                if above >> step & 1 and world.parts[later].stands and not stuck:
                    return True
    return False


def _wrong_at_rest(stage: Stage, world: World, known: Known) -> str:
    parts, status = world.parts, known.status
    contradicted = any(stage.said(world, Fact(Meaning.CONTRADICTED, i, id="bust")) for i in range(len(parts)))
    if status in UNDER_WAY:
        return f"hangs in {status}"
    if status is Status.ABORTED and any(part.stands for part in parts):
        return "aborted with something standing"
    if status is Status.COMPLETED and contradicted:
        return "completed, though contradicted"
    if status is Status.FAILED and world.absent:
        return ""
    if status is Status.FAILED and not contradicted:
        stuck = [p.status is RowStatus.COMPENSATION_FAILED and p.stands for p in parts]
        tried = [stage.retriable[i] and p.status is RowStatus.FAILED for i, p in enumerate(parts)]
        if not any(stuck) and not any(tried):
            return "failed for no reason"
        passed = stage.protocol.machine.passed(known.state)
        if not passed and any(part.stands and part.status is RowStatus.DONE for part in parts):
            return "failed, and nobody tried to take back the rest"
    return ""
