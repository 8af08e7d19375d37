"""Facts that every saga has, for `Scenario.happened`."""

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
    """An event with what its envelope adds: the step, and its round."""

    message: Event
    step: str = ""
    round: int = 1


def attempt_failed(step: AnyStep, *, attempt: int = 1) -> GivenFact:
    """An attempt failed; another follows."""
    message = lifecycle.AttemptFailed(step=step.name, direction="forward", attempt=attempt, reason=_REASON)
    return GivenFact(message, step.name)


def failed(step: AnyStep, *, round: int = 1) -> GivenFact:  # noqa: A002 - the word of the domain
    """The step failed and is not retried in this round."""
    return GivenFact(lifecycle.StepFailed(step=step.name, attempts=3, reason=_REASON), step.name, round)


def unknown(step: AnyStep) -> GivenFact:
    """An attempt timed out; its outcome is unknown."""
    return GivenFact(lifecycle.StepUnknown(step=step.name, attempt=1, reason=_REASON), step.name)


def barred(step: AnyStep) -> GivenFact:
    """The step has not happened and never will."""
    return GivenFact(lifecycle.StepBarred(step=step.name), step.name)


def unowned(step: AnyStep) -> GivenFact:
    """The saga waits for the step past its deadline, and the step has no owner."""
    return GivenFact(lifecycle.StepUnowned(step=step.name, reason=_REASON), step.name)


def compensation_failed(step: AnyStep, *, round: int = 1) -> GivenFact:  # noqa: A002 - the word of the domain
    """The step's compensation failed."""
    return GivenFact(lifecycle.CompensationFailed(step=step.name, attempts=10, reason=_REASON), step.name, round)


def contradicted(step: AnyStep, venue_id: str) -> GivenFact:
    """The remote system reports something that contradicts the step's answer."""
    return GivenFact(lifecycle.StepContradicted(step=step.name, venue_id=venue_id, reason=_REASON))


def aborted() -> GivenFact:
    """An operator aborts the saga."""
    return GivenFact(lifecycle.AbortRequested(operator=_OPERATOR, reason=_REASON))


def rechecked() -> GivenFact:
    """An operator asks the owner of each step to publish its answer again."""
    return GivenFact(lifecycle.RecheckRequested(operator=_OPERATOR, reason=_REASON))


def retried(step: AnyStep) -> GivenFact:
    """An operator retries a failed step, or its failed compensation."""
    return GivenFact(lifecycle.RetryRequested(operator=_OPERATOR, reason=_REASON, step=step.name))


def skipped(step: AnyStep) -> GivenFact:
    """An operator skips a failed compensation."""
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
    """Assert that `compensate` restores what `look` returned before `do`.

    `look` must return a copy (balances, not the live object), and must see what `do` changes: otherwise it could not
    see what the compensation leaves behind either.
    """
    before = await look()
    await do()
    if (between := await look()) == before:
        raise AssertionError(f"what is looked at does not change when the step is done: {between!r}")
    await compensate()
    if (after := await look()) != before:
        raise AssertionError(f"taking the step back left {after!r}, not {before!r}")
