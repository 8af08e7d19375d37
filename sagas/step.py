"""Steps of a saga, as typed values.

A step's kind follows from its arguments: with `compensate` it is compensatable; with `rejects` alone it is the pivot,
after which nothing is compensated; with neither it is retriable: retried until it succeeds.
"""

import math
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any, Generic, Never, TypeVar, cast, overload

from tradesaga.sagas.errors import DefinitionError
from tradesaga.schemas.messages.message import Compensation, Event, Message


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry policy: capped exponential backoff, with full jitter over the last `jitter` share of each delay.

    `initial` and `maximum` are seconds. Jitter keeps sagas that failed at the same time from retrying at the same time.

    Raises `DefinitionError` for a value that is not a number or out of bounds.
    """

    attempts: int = 3
    initial: float = 0.1
    factor: float = 2.0
    maximum: float = 5.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if type(self.attempts) is not int:
            raise DefinitionError(f"Retry: attempts={self.attempts!r} is no whole number")
        for name in ("initial", "factor", "maximum", "jitter"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise DefinitionError(f"Retry: {name}={value!r} is no finite number")
        if self.attempts < 1 or self.initial < 0 or self.factor < 1 or self.maximum < self.initial:
            raise DefinitionError(f"{self}: attempts >= 1, initial >= 0, factor >= 1 and maximum >= initial are needed")
        if not 0 <= self.jitter <= 1:
            raise DefinitionError(f"{self}: jitter is a share between 0 and 1")

    def delay(self, attempt: int, chance: float) -> timedelta:
        """Return the delay after failed `attempt` (1 is the first); `chance` is a random number in [0, 1)."""
        whole = min(self.maximum, self.initial * self.factor ** min(attempt - 1, 64))
        return timedelta(seconds=whole * (1 - self.jitter * chance))


In = TypeVar("In", bound=Event)

Out = TypeVar("Out", bound=Event)

Rejected = TypeVar("Rejected", bound=Event)

Back = TypeVar("Back", bound=Compensation)

Compensated = TypeVar("Compensated", bound=Event)

DEFAULT_TIMEOUT = timedelta(seconds=5)

COMPENSATION_RETRY = Retry(attempts=10, initial=0.2, factor=2.0, maximum=30.0)


class StepKind(Enum):
    """Whether a completed step can be compensated, and whether a saga may fail after it."""

    COMPENSATABLE = "compensatable"
    PIVOT = "pivot"
    RETRIABLE = "retriable"


@dataclass(frozen=True, slots=True)
class Step(Generic[In, Out, Rejected]):
    """One step of a saga: it reacts to an `In` and answers with an `Out` or a `Rejected`.

    `on` holds one event type, or several for a join. `waits_for` makes it a waiting step, which answers once its
    trigger and reports of that type from outside are both there. `timeout` is for one attempt.
    """

    name: str
    on: tuple[type[Event], ...]
    emits: type[Out]
    rejects: type[Rejected] | None = None
    waits_for: type[Event] | None = None
    timeout: timedelta = DEFAULT_TIMEOUT
    retry: Retry = field(default_factory=Retry)

    @property
    def kind(self) -> StepKind:
        """Return the step's kind: pivot or retriable; a compensatable step overrides it."""
        return StepKind.RETRIABLE if self.rejects is None else StepKind.PIVOT

    @property
    def back(self) -> tuple[type[Compensation], type[Event]] | None:
        """Return the compensation and the event that confirms it, or None if the step has none."""
        return None

    @property
    def retry_of_compensation(self) -> Retry:
        """Return the attempts at taking the step back."""
        return COMPENSATION_RETRY

    @property
    def answers(self) -> tuple[type[Event], ...]:
        """Return the events that the step answers with: success and, if there is one, rejection."""
        return (self.emits,) if self.rejects is None else (self.emits, self.rejects)

    @property
    def back_answers(self) -> tuple[type[Event], ...]:
        """Return the events that its compensation answers with; none without a compensation."""
        return self.back[1:] if self.back else ()

    @property
    def messages(self) -> tuple[type[Message], ...]:
        """Return all messages that the step names."""
        options = (self.emits, self.rejects, self.waits_for, *(self.back or ()))
        return (*self.on, *(message for message in options if message is not None))


@dataclass(frozen=True, slots=True)
class CompensatableStep(Step[In, Out, Rejected], Generic[In, Out, Rejected, Back, Compensated]):
    """A step with a compensation: the command is a `Back`, its confirmation a `Compensated`."""

    compensate: type[Back] = field(kw_only=True)
    compensated: type[Compensated] = field(kw_only=True)
    compensation_retry: Retry = COMPENSATION_RETRY

    @property
    def kind(self) -> StepKind:
        """Return `StepKind.COMPENSATABLE`."""
        return StepKind.COMPENSATABLE

    @property
    def back(self) -> tuple[type[Compensation], type[Event]]:
        """Return the compensation and the event that confirms it."""
        return self.compensate, self.compensated

    @property
    def retry_of_compensation(self) -> Retry:
        """Return the attempts at taking the step back."""
        return self.compensation_retry


AnyStep = Step[Any, Any, Any]


@overload
def step(
    name: str,
    *,
    on: type[In] | tuple[type[In], ...],
    emits: type[Out],
    rejects: type[Rejected],
    compensate: type[Back],
    compensated: type[Compensated],
    waits_for: type[Event] | None = None,
    timeout: timedelta = ...,
    retry: Retry | None = None,
    compensation_retry: Retry = ...,
) -> CompensatableStep[In, Out, Rejected, Back, Compensated]: ...


@overload
def step(
    name: str,
    *,
    on: type[In] | tuple[type[In], ...],
    emits: type[Out],
    compensate: type[Back],
    compensated: type[Compensated],
    waits_for: type[Event] | None = None,
    timeout: timedelta = ...,
    retry: Retry | None = None,
    compensation_retry: Retry = ...,
) -> CompensatableStep[In, Out, Never, Back, Compensated]: ...


@overload
def step(
    name: str,
    *,
    on: type[In] | tuple[type[In], ...],
    emits: type[Out],
    rejects: type[Rejected],
    waits_for: type[Event] | None = None,
    timeout: timedelta = ...,
    retry: Retry | None = None,
) -> Step[In, Out, Rejected]: ...


@overload
def step(
    name: str,
    *,
    on: type[In] | tuple[type[In], ...],
    emits: type[Out],
    waits_for: type[Event] | None = None,
    timeout: timedelta = ...,
    retry: Retry | None = None,
) -> Step[In, Out, Never]: ...


def step(
    name: str,
    *,
    on: Any,
    emits: Any,
    rejects: Any = None,
    compensate: Any = None,
    compensated: Any = None,
    waits_for: type[Event] | None = None,
    timeout: timedelta = DEFAULT_TIMEOUT,
    retry: Retry | None = None,
    compensation_retry: Retry = COMPENSATION_RETRY,
) -> Any:
    """Make a step; the module's docstring says how its kind follows from the arguments.

    Raises `DefinitionError` for half a compensation, no trigger, a timeout of zero, or an argument of a wrong type.
    """
    if (compensate is None) != (compensated is None):
        raise DefinitionError(f"step {name!r}: give compensate and compensated together, or neither")
    triggers = cast("tuple[type[Event], ...]", on if isinstance(on, tuple) else (on,))
    if not triggers:
        raise DefinitionError(f"step {name!r}: `on` is empty; name the event or events that it reacts to")
    for role, message in (*(("on", each) for each in triggers), ("emits", emits), ("rejects", rejects),
                          ("waits_for", waits_for), ("compensated", compensated)):  # fmt: skip
        _check_type(name, role, message, Event)
    _check_type(name, "compensate", compensate, Compensation)
    _check_retry(name, "retry", retry)
    _check_retry(name, "compensation_retry", compensation_retry)
    check_time(f"step {name!r}: timeout", timeout)
    if timeout <= timedelta():
        raise DefinitionError(f"step {name!r}: timeout {timeout} leaves an attempt no time; give more than zero")
    retriable = rejects is None and compensate is None
    attempts = retry or (Retry(attempts=20, maximum=30.0) if retriable else Retry())
    if compensate is None:
        plain: AnyStep = Step(name, triggers, emits, rejects, waits_for, timeout, attempts)
        return plain
    back: AnyStep = CompensatableStep(
        name, triggers, emits, rejects, waits_for, timeout, attempts,
        compensate=compensate, compensated=compensated, compensation_retry=compensation_retry,
    )  # fmt: skip
    return back


def check_time(what: str, time: object) -> None:
    """Raise `DefinitionError` unless `time` is a `timedelta`: a number has no unit."""
    if not isinstance(time, timedelta):
        raise DefinitionError(f"{what}={time!r} is no timedelta; give seconds({time!r}) or minutes(...)")


def _check_type(step: str, role: str, message: object, kind: type[Message]) -> None:
    if (message is None and role not in {"on", "emits"}) or (isinstance(message, type) and issubclass(message, kind)):
        return
    named = message.__name__ if isinstance(message, type) else repr(message)
    raise DefinitionError(f"step {step!r}: {role}={named} is no {kind.__name__} class")


def _check_retry(step: str, role: str, given: object) -> None:
    if given is not None and not isinstance(given, Retry):
        raise DefinitionError(f"step {step!r}: {role}={given!r} is no Retry; give Retry(attempts=...)")
