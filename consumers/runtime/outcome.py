"""Outcomes of attempts and of remote calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from tradesaga.schemas.messages.message import Event


@dataclass(frozen=True, slots=True)
class Answered:
    """The handler returned an event: success, rejection or compensation."""

    event: Event
    value: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt did not happen; `final` if every further attempt would fail too, `hung` if it timed out."""

    reason: str
    final: bool = False
    hung: bool = False


@dataclass(frozen=True, slots=True)
class Deferred:
    """The attempt was not run: the batch has no time left for it."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The attempt may have happened; `first_report` if that was not known before."""

    reason: str
    first_report: bool = True


@dataclass(frozen=True, slots=True)
class NotFound:
    """The remote system has no such request; conclusive only once the attempt has expired there."""


@dataclass(frozen=True, slots=True)
class Reported:
    """The remote system's reports for a waiting step."""

    reports: Sequence[Event]


Outcome = Answered | Failed | Deferred | Unknown | NotFound | Reported


class CallKind(Enum):
    """The kinds of remote calls."""

    CALL = "call"
    QUERY = "query"
    COMPENSATE = "compensate"
    POLL = "poll"
    BAR = "bar"


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished remote call; it is ignored unless the row is still at the attempt for which it was made."""

    saga_id: UUID
    step: str
    kind: CallKind
    attempt: int
    outcome: Outcome

    @property
    def key(self) -> tuple[UUID, str]:
        """Return the key of the call's row."""
        return self.saga_id, self.step
