"""Events and commands that every saga has."""

from typing import Annotated, Final, Literal

from pydantic import Field

from tradesaga.schemas.messages.message import Command, Event

_NO_NUL: Final = r"^[^\x00]*$"
"""PostgreSQL cannot store NUL characters in text."""

StepName = Annotated[str, Field(min_length=1, max_length=100)]
Reason = Annotated[str, Field(max_length=2000)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Direction = Literal["forward", "back"]


class AttemptFailed(Event):
    """An attempt of a step, or of its compensation, has not happened; another follows."""

    step: StepName
    direction: Direction
    attempt: Count
    reason: Reason


class StepFailed(Event):
    """A step has not happened and is not retried in this round."""

    step: StepName
    attempts: Count
    reason: Reason


class StepUnknown(Event):
    """A step's attempt has timed out; whether it happened is not known yet."""

    step: StepName
    attempt: Count
    reason: Reason


class StepBarred(Event):
    """A step has not happened and never will: its owner rejects it from now on."""

    step: StepName


class StepUnowned(Event):
    """A saga waits past its deadline for a step without a known owner; published by the saga log."""

    step: StepName
    reason: Reason


class StepContradicted(Event):
    """The remote system reports something that contradicts the step's answer (a late fill, a busted trade)."""

    step: StepName
    venue_id: str
    reason: Reason


class CompensationFailed(Event):
    """A compensation has failed for good; the step's effect remains."""

    step: StepName
    attempts: Count
    reason: Reason


class DeadlineElapsed(Event):
    """The saga's deadline has passed; published by the saga log, and folded when its record is read."""

    deadline: str


class StartRefused(Event):
    """A start was refused: a different request has its idempotency key. Recorded, without effect."""

    idempotency_key: str
    request_hash: str
    reason: Reason


class OperatorFact(Event):
    """An operator's decision about one saga, with name and reason."""

    operator: Annotated[str, Field(min_length=1, max_length=100, pattern=_NO_NUL)]
    reason: Annotated[str, Field(min_length=1, max_length=2000, pattern=_NO_NUL)]


class RetryRequested(OperatorFact):
    """Run a failed step past the pivot, or a failed compensation, again, in a new round."""

    step: StepName


class AbortRequested(OperatorFact):
    """Compensate the saga, if it is not past its pivot."""


class SkipRequested(OperatorFact):
    """Skip one failed compensation; the saga stays FAILED until it is resolved."""

    step: StepName


class ResolveRequested(OperatorFact):
    """Close a FAILED saga by hand; the reason states the evidence."""

    outcome: Literal["ABORTED", "COMPLETED"]


class RecheckRequested(OperatorFact):
    """Have all steps' owners publish their answers again; then compensate the saga unless it is past its pivot."""


class ParkReleased(OperatorFact):
    """Release a parked record: fold it and those parked behind it (`retry`), or leave it out for good (`discard`)."""

    topic: str
    partition: Count
    offset: Annotated[int, Field(ge=0, le=2**63 - 1)]
    action: Literal["retry", "discard"]


class Bar(Command):
    """Settle an outstanding step: answer with its outcome, or that it never happens (`StepBarred`)."""

    step: StepName


class Retry(Command):
    """Run a failed step again, with its stored input, in a new round."""

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
