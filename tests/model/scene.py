"""What a model's state is made of, and what bounds the number of its states."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from tradesaga.sagas.decide import Transition
from tradesaga.sagas.facts import Meaning
from tradesaga.sagas.step_state import RowStatus


class Part(NamedTuple):
    """One step: its row at its owner, and what is true where its effect lands.

    `stands`: the effect is there; `closed`: the outside can no longer produce it; `calling`: a call is on the wire.
    """

    status: RowStatus | None = None
    calling: bool = False
    stands: bool = False
    closed: bool = False
    bar_seen: bool = False
    attempt: int = 1
    round: int = 1
    back_round: int = 0
    done: int = 0
    undone: int = 0

    @property
    def back_attempt(self) -> int:
        """Return 1: a compensation of the model has one attempt a round."""
        return 1

    def after(self, decided: Transition) -> "Part":
        """Return the step with the state that was decided."""
        return self._replace(
            status=decided.status, bar_seen=decided.bar_seen, attempt=decided.attempt,
            round=decided.round, back_round=decided.back_round,
        )  # fmt: skip


class World(NamedTuple):
    """One saga at one moment. `log` holds numbers of facts; the first `read` of them are folded."""

    parts: tuple[Part, ...]
    log: bytes
    read: int = 0
    repeats: int = 0
    decisions: int = 0
    undo_failures: int = 0
    busts: int = 0
    free: int = 0
    absent: bool = False


class Move(NamedTuple):
    """What may happen next; nobody waits for an optional one."""

    name: str
    step: int
    world: World
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """What the world may do to the saga, and how often; steps are given by their index."""

    attempts: int = 2
    repeats: int = 0
    decisions: int = 0
    undo_failures: int = 0
    busts: int = 0
    raising: Collection[int] = ()
    remote: Collection[int] = ()
    decides: Collection[Meaning] = ()
    free: int = 1
    paid_by: int = -1
    """The step that takes one unit of the account, -1 for none."""
    unowned: int = -1
    """The step whose owner is absent at first, -1 for none."""
