"""What came of an attempt."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from tradesaga.schemas.messages.message import Event


@dataclass(frozen=True, slots=True)
class Answered:
    """The handler's event: done, refused or taken back."""

    event: Event
    value: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """Known not to have happened; `final` when another attempt would end the same way, `hung` if its time ran out."""

    reason: str
    final: bool = False
    hung: bool = False


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not run: the batch has no time left for it."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have happened; `news` if nobody could know before."""

    reason: str
    first_report: bool = True


@dataclass(frozen=True, slots=True)
class NotFound:
    """The far side does not know it, which is an answer only once the attempt is void there."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What the far side says of a waiting step."""

    reports: Sequence[Event]


Outcome = Answered | Failed | Deferred | Unknown | NotFound | Reported


class CallKind(Enum):
    """What is asked of the far side."""

    CALL = "call"
    QUERY = "query"
    COMPENSATE = "compensate"
    POLL = "poll"
    BAR = "bar"


@dataclass(frozen=True, slots=True)
class Completion:
    """A remote call has ended; it counts only if the row is still at the attempt for which it was made."""

    saga_id: UUID
    step: str
    kind: CallKind
    attempt: int
    outcome: Outcome

    @property
    def key(self) -> tuple[UUID, str]:
        """Give the key of the row on which it will be judged."""
        return self.saga_id, self.step
