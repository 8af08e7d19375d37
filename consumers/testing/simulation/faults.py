"""The faults of a schedule: each occurs when a process reaches a failpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

from tradesaga.infra.failpoints import Failpoint


class FaultKind(StrEnum):
    """What goes wrong at a failpoint."""

    CRASH = "crash"
    ZOMBIE = "zombie"
    PAUSE = "pause"
    REBALANCE = "rebalance"
    EARLY_DELIVERY = "early delivery"
    REUSED_GENERATION = "reused generation"
    CUT_COMMIT = "cut commit"
    CUT_CONNECTION = "cut connection"
    CONFLICT = "conflict"
    SLOW_DATABASE = "slow database"
    LOST_ACK = "lost ack"
    FAILED_SEND = "failed send"
    DUPLICATE_APPEND = "duplicate append"
    FETCH_ERROR = "fetch error"
    BROKER_DOWN = "broker down"
    REPUBLISH = "republish"
    DUPLICATE_START = "duplicate start"
    ABORT = "abort"
    RETRY = "retry"
    SLOW_FAR_SIDE = "slow far side"
    LOST_ANSWER = "lost answer"
    CLOCK_JUMP = "clock jump"


CELLS: Final[Sequence[tuple[Failpoint, FaultKind]]] = [
    (failpoint, kind) for kind in FaultKind for failpoint in Failpoint
]
"""Every failpoint with every kind of fault; schedule n includes cell n, so that none is left out for long."""
LEAST: Final = 5
MOST: Final = 7
_NTH: Final = 8
"""Times that a failpoint is reached at most before a fault occurs there, the schedule's own aside."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that occurs when a failpoint is reached for the `nth` time; `draw`, in [0, 1), sets its size."""

    failpoint: Failpoint
    nth: int
    kind: FaultKind
    draw: float

    def __str__(self) -> str:
        """Return the fault as the trace prints it."""
        return f"{self.kind} at {self.failpoint} no. {self.nth} ({self.draw:.3f})"


def draw_faults(seed: int, chance: Random) -> list[Fault]:
    """Draw the faults of one schedule."""
    first, kind = CELLS[seed % len(CELLS)]
    faults = [Fault(first, 1, kind, chance.random())]
    for _ in range(chance.randint(LEAST, MOST) - 1):
        failpoint, kind = CELLS[int(chance.random() * len(CELLS))]
        faults.append(Fault(failpoint, 2 + int(chance.random() * (_NTH - 1)), kind, chance.random()))
    return faults
