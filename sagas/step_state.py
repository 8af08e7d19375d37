"""What a step's owner holds of one step of one saga: the state on which triggers, bars and compensations contend."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol


class RowStatus(IntEnum):
    """Where a step stands at its owner; stored as a `smallint`, so numbers never change their meaning.

    INTENT means unknown: a call may be on its way. RETRY and FAILED mean known not to have happened.
    """

    INTENT = 1
    RETRY = 2
    WAITING = 3
    DONE = 4
    REFUSED = 5
    FAILED = 6
    BARRED = 7
    COMPENSATING = 8
    COMPENSATED = 9
    COMPENSATION_FAILED = 10

    # An enumeration hashes its members by their names, in Python; each message is looked up by its row's status.
    __hash__ = object.__hash__

    @property
    def driven(self) -> bool:
        """Whether the row has a due time at which its owner goes on with it."""
        return self in DRIVEN


OPEN: Final = frozenset({RowStatus.INTENT, RowStatus.RETRY, RowStatus.WAITING})
"""No answer has been given yet."""
DRIVEN: Final = OPEN | {RowStatus.COMPENSATING}
ANSWERED: Final = frozenset(RowStatus) - OPEN
"""The step has given its forward answer, which it repeats whenever it is asked again."""


class StepState(Protocol):
    """The part of a step's row that decides what a message may do; `status` is None where there is no row yet.

    `attempt` and `round` count forward, `back_attempt` and `back_round` count the compensation's; `bar_seen` says that
    a bar waits for the outcome of what is under way.
    """

    @property
    def status(self) -> RowStatus | None: ...  # noqa: D102
    @property
    def attempt(self) -> int: ...  # noqa: D102
    @property
    def back_attempt(self) -> int: ...  # noqa: D102
    @property
    def round(self) -> int: ...  # noqa: D102
    @property
    def back_round(self) -> int: ...  # noqa: D102
    @property
    def bar_seen(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class _NoRow:
    status: None = None
    attempt: int = 1
    back_attempt: int = 0
    round: int = 1
    back_round: int = 0
    bar_seen: bool = False


NO_ROW: Final[StepState] = _NoRow()
"""The state of a step of which its owner knows nothing yet."""
