"""What is simulated: a saga, those who take part in it, and the starts that are drawn for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

from tradesaga.consumers.participant import Participant
from tradesaga.consumers.testing.simulation.database import Statement
from tradesaga.consumers.testing.simulation.effects import FarSide
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.messages.message import Event

Report = Callable[[UUID, Event], None]
"""Publishes an outside fact of a saga, as a feed would."""


@dataclass(frozen=True)
class SimulatedSaga:
    """A saga under simulation.

    `participants` binds handlers for one simulated world: local ones call `take_effect`, or SQL of their own for which
    `statements` has a function; remote ones call the far side. `start` draws a start: its number within the schedule
    is 0 for one that is to be taken back, so that every schedule compensates. `stuck` says of a start that a failure
    planted in it cannot be mended, so that FAILED is its right end.
    """

    saga: AnySaga
    participants: Callable[[FarSide, Report], Sequence[Participant]]
    start: Callable[[Random, int], Event]
    stuck: Callable[[Event], bool] = lambda _: False
    statements: Mapping[str, Statement] = field(default_factory=dict[str, Statement])
    partitions: int = 2
