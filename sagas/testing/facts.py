"""Short words for the facts every saga has, to be given to `Scenario.happened`."""

from dataclasses import dataclass
from typing import Literal

from tradesaga.sagas.step import AnyStep
from tradesaga.schemas.messages import lifecycle
from tradesaga.schemas.messages.message import Event

_OPERATOR = "tester"
_REASON = "said by a scenario"


@dataclass(frozen=True, slots=True)
class Happening:
    """A fact with what its envelope adds: the step it is about, and the round of that step."""

    message: Event
    step: str = ""
    round: int = 1


def attempt_failed(step: AnyStep, *, attempt: int = 1) -> Happening:
    """One attempt did not happen; another follows."""
    message = lifecycle.AttemptFailed(step=step.name, direction="forward", attempt=attempt, reason=_REASON)
    return Happening(message, step.name)


def failed(step: AnyStep, *, round: int = 1) -> Happening:  # noqa: A002 - the word of the domain
    """The step did not happen and will not be tried again in this round."""
    return Happening(lifecycle.StepFailed(step=step.name, attempts=3, reason=_REASON), step.name, round)


def unknown(step: AnyStep) -> Happening:
    """An attempt has run out of time; nobody knows whether it happened."""
    return Happening(lifecycle.StepUnknown(step=step.name, attempt=1, reason=_REASON), step.name)


def barred(step: AnyStep) -> Happening:
    """The step has not happened and never will."""
    return Happening(lifecycle.StepBarred(step=step.name), step.name)


def unowned(step: AnyStep) -> Happening:
    """The saga waits for the step past its deadline, and nobody owns it."""
    return Happening(lifecycle.StepUnowned(step=step.name, reason=_REASON), step.name)


def compensation_failed(step: AnyStep, *, round: int = 1) -> Happening:  # noqa: A002 - the word of the domain
    """What the step did could not be taken back."""
    return Happening(lifecycle.CompensationFailed(step=step.name, attempts=10, reason=_REASON), step.name, round)


def contradicted(step: AnyStep, venue_id: str) -> Happening:
    """The far side says something that contradicts the step's answer."""
    return Happening(lifecycle.StepContradicted(step=step.name, venue_id=venue_id, reason=_REASON))


def aborted() -> Happening:
    """An operator wants the saga taken back."""
    return Happening(lifecycle.AbortRequested(operator=_OPERATOR, reason=_REASON))


def rechecked() -> Happening:
    """An operator has the owner of each step say again what came of it."""
    return Happening(lifecycle.RecheckRequested(operator=_OPERATOR, reason=_REASON))


def retried(step: AnyStep) -> Happening:
    """An operator wants a failed step, or its failed compensation, run again."""
    return Happening(lifecycle.RetryRequested(operator=_OPERATOR, reason=_REASON, step=step.name))


def skipped(step: AnyStep) -> Happening:
    """An operator leaves a failed compensation standing."""
    return Happening(lifecycle.SkipRequested(operator=_OPERATOR, reason=_REASON, step=step.name))


def resolved(outcome: Literal["ABORTED", "COMPLETED"]) -> Happening:
    """An operator closes a FAILED saga by hand."""
    return Happening(lifecycle.ResolveRequested(operator=_OPERATOR, reason=_REASON, outcome=outcome))
