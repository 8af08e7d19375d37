"""Short words for the facts every saga has, to be given to `Scenario.happened`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from tradesaga.sagas.step import AnyStep
from tradesaga.schemas.messages import lifecycle
from tradesaga.schemas.messages.message import Event

_OPERATOR = "tester"

_REASON = "said by a scenario"


@dataclass(frozen=True, slots=True)
class GivenFact:
    """A fact with what its envelope adds: the step it is about, and the round of that step."""

    message: Event
    step: str = ""
    round: int = 1


def attempt_failed(step: AnyStep, *, attempt: int = 1) -> GivenFact:
    """One attempt did not happen; another follows."""
    message = lifecycle.AttemptFailed(step=step.name, direction="forward", attempt=attempt, reason=_REASON)
    return GivenFact(message, step.name)


def failed(step: AnyStep, *, round: int = 1) -> GivenFact:  # noqa: A002 - the word of the domain
    """The step did not happen and will not be tried again in this round."""
    return GivenFact(lifecycle.StepFailed(step=step.name, attempts=3, reason=_REASON), step.name, round)


def unknown(step: AnyStep) -> GivenFact:
    """An attempt has run out of time; nobody knows whether it happened."""
    return GivenFact(lifecycle.StepUnknown(step=step.name, attempt=1, reason=_REASON), step.name)


def barred(step: AnyStep) -> GivenFact:
    """The step has not happened and never will."""
    return GivenFact(lifecycle.StepBarred(step=step.name), step.name)


def unowned(step: AnyStep) -> GivenFact:
    """The saga waits for the step past its deadline, and nobody owns it."""
    return GivenFact(lifecycle.StepUnowned(step=step.name, reason=_REASON), step.name)


def compensation_failed(step: AnyStep, *, round: int = 1) -> GivenFact:  # noqa: A002 - the word of the domain
    """What the step did could not be taken back."""
    return GivenFact(lifecycle.CompensationFailed(step=step.name, attempts=10, reason=_REASON), step.name, round)


def contradicted(step: AnyStep, venue_id: str) -> GivenFact:
    """The far side says something that contradicts the step's answer."""
    return GivenFact(lifecycle.StepContradicted(step=step.name, venue_id=venue_id, reason=_REASON))


def aborted() -> GivenFact:
    """An operator wants the saga taken back."""
    return GivenFact(lifecycle.AbortRequested(operator=_OPERATOR, reason=_REASON))


def rechecked() -> GivenFact:
    """An operator has the owner of each step say again what came of it."""
    return GivenFact(lifecycle.RecheckRequested(operator=_OPERATOR, reason=_REASON))


def retried(step: AnyStep) -> GivenFact:
    """An operator wants a failed step, or its failed compensation, run again."""
    return GivenFact(lifecycle.RetryRequested(operator=_OPERATOR, reason=_REASON, step=step.name))


def skipped(step: AnyStep) -> GivenFact:
    """An operator leaves a failed compensation standing."""
    return GivenFact(lifecycle.SkipRequested(operator=_OPERATOR, reason=_REASON, step=step.name))


def resolved(outcome: Literal["ABORTED", "COMPLETED"]) -> GivenFact:
    """An operator closes a FAILED saga by hand."""
    return GivenFact(lifecycle.ResolveRequested(operator=_OPERATOR, reason=_REASON, outcome=outcome))


Seen = TypeVar("Seen")


async def assert_compensation_restores(
    look: Callable[[], Awaitable[Seen]],
    do: Callable[[], Awaitable[object]],
    compensate: Callable[[], Awaitable[object]],
) -> None:
    """Hold `undo` to bringing back what `look` saw before `do`; raises `AssertionError` saying what differs.

    `look` must give a value of its own (balances, not the live object), and see what `do` changes: a look that sees
    no change could not see what was left behind either.
    """
    before = await look()
    await do()
    if (between := await look()) == before:
        raise AssertionError(f"what is looked at does not change when the step is done: {between!r}")
    await compensate()
    if (after := await look()) != before:
        raise AssertionError(f"taking the step back left {after!r}, not {before!r}")
