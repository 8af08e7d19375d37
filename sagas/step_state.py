"""The status of a step row, and the part of the row that decides what a message may do."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol


class RowStatus(IntEnum):
    """Status of a step row; stored as a `smallint`, so numbers never change their meaning.

    INTENT: an attempt may be in flight or may have happened. RETRY and FAILED: it is known not to have happened.
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

    # The default hashes the name, in Python code; each message looks up its row's status.
    __hash__ = object.__hash__

    @property
    def driven(self) -> bool:
        """Whether the row has a due time at which its owner processes it."""
        return self in DRIVEN


OPEN: Final = frozenset({RowStatus.INTENT, RowStatus.RETRY, RowStatus.WAITING})
"""Statuses without an answer."""
DRIVEN: Final = OPEN | {RowStatus.COMPENSATING}
ANSWERED: Final = frozenset(RowStatus) - OPEN
"""Statuses with a forward answer, which is repeated on request."""


class StepState(Protocol):
    """The part of a step's row that decides what a message may do; `status` is None where there is no row yet.

    `attempt` and `round` count forward, `back_attempt` and `back_round` count the compensation's; `bar_seen`: a
    bar waits for the outcome of the attempt in flight.
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
"""The state of a step that has no row yet."""
