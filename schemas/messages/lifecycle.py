"""Facts and commands that every saga has, whatever its steps."""

from typing import Annotated, Final, Literal

from pydantic import Field

from tradesaga.schemas.messages.message import Command, Event

_NO_NUL: Final = r"^[^\x00]*$"
"""PostgreSQL has no place for a NUL character in a text."""

StepName = Annotated[str, Field(min_length=1, max_length=100)]
Reason = Annotated[str, Field(max_length=2000)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Direction = Literal["forward", "back"]


class AttemptFailed(Event):
    """One attempt of a step, or of its compensation, is known not to have happened; another follows."""

    step: StepName
    direction: Direction
    attempt: Count
    reason: Reason


class StepFailed(Event):
    """A step is known not to have happened and will not be tried again in this round."""

    step: StepName
    attempts: Count
    reason: Reason


class StepUnknown(Event):
    """A step's attempt has run out of time and nobody knows yet whether it happened."""

    step: StepName
    attempt: Count
    reason: Reason


class StepBarred(Event):
    """A step has not happened and never will: its owner has closed the door."""

    step: StepName


class StepUnowned(Event):
    """A saga waits for a step past its deadline, and no service is known that owns it; published by the saga log."""

    step: StepName
    reason: Reason


class StepContradicted(Event):
    """The far side says something that contradicts what its step has answered (a fill after all, a busted trade)."""

    step: StepName
    venue_id: str
    reason: Reason


class CompensationFailed(Event):
    """A compensation is out of attempts, or could not be done at all; what its step did still stands."""

    step: StepName
    attempts: Count
    reason: Reason


class DeadlineElapsed(Event):
    """The saga's time is up; published by the saga log, which folds it in its turn like any other fact."""

    deadline: str


class StartRefused(Event):
    """A start came under a key that an earlier, different request holds; recorded, never counted."""

    idempotency_key: str
    request_hash: str
    reason: Reason


class OperatorFact(Event):
    """A person's decision about one saga, with who and why."""

    operator: Annotated[str, Field(min_length=1, max_length=100, pattern=_NO_NUL)]
    reason: Annotated[str, Field(min_length=1, max_length=2000, pattern=_NO_NUL)]


class RetryRequested(OperatorFact):
    """Run a failed step past the pivot, or a failed compensation, again in a new round."""

    step: StepName


class AbortRequested(OperatorFact):
    """Take the saga back while that is still possible."""


class SkipRequested(OperatorFact):
    """Leave one failed compensation standing; the saga stays FAILED until it is resolved."""

    step: StepName


class ResolveRequested(OperatorFact):
    """Close a FAILED saga by hand, with the evidence in the reason."""

    outcome: Literal["ABORTED", "COMPLETED"]


class RecheckRequested(OperatorFact):
    """Have the owners of all steps say again what came of them; then take the saga back unless it is past its pivot."""


class ParkReleased(OperatorFact):
    """Let a parked record, and those of its saga behind it, go on (`retry`) or be left out for good (`discard`)."""

    topic: str
    partition: Count
    offset: Annotated[int, Field(ge=0, le=2**63 - 1)]
    action: Literal["retry", "discard"]


class Bar(Command):
    """Settle an outstanding step: answer *barred*, or with its true outcome."""

    step: StepName


class Retry(Command):
    """Run a failed step again, from its stored input, in a new round."""

    step: StepName
    round: Count


MESSAGES = (
    AbortRequested,
    AttemptFailed,
    Bar,
    CompensationFailed,
    DeadlineElapsed,
    ParkReleased,
    RecheckRequested,
    ResolveRequested,
    Retry,
    RetryRequested,
    SkipRequested,
    StartRefused,
    StepBarred,
    StepContradicted,
    StepFailed,
    StepUnknown,
    StepUnowned,
)
