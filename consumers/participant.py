"""Participants: bind async functions to the steps of a saga that a service owns.

A rejection is a returned event. An exception means that the attempt has not happened and is retried;
`OutcomeUnknownError` from a remote call means that it may have happened: the remote system is queried, and the call is
not repeated.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tradesaga.consumers.context import Evidence, ReportStore, StepContext, Work
from tradesaga.consumers.function_checks import check_function
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.registry.participants import StepOwner
from tradesaga.infra.settings import Settings
from tradesaga.sagas.definition import AnySaga, Saga
from tradesaga.sagas.errors import DefinitionError, SagaError
from tradesaga.sagas.step import AnyStep, CompensatableStep, Step
from tradesaga.schemas.messages.message import Compensation, Event, wire_type

__all__ = ["CompensationImpossibleError", "Participant", "StepContext", "Work"]

In = TypeVar("In", bound=Event)
Out = TypeVar("Out", bound=Event)
Rejected = TypeVar("Rejected", bound=Event)
Back = TypeVar("Back", bound=Compensation)
Compensated = TypeVar("Compensated", bound=Event)
Report = TypeVar("Report", bound=Event)

Handler = Callable[[In, StepContext], Awaitable[Out | Rejected]]
BatchHandler = Callable[[Sequence[Work[In]], Connection], Awaitable[Sequence[Out | Rejected]]]
Compensate = Callable[[Back, StepContext], Awaitable[Compensated]]
BatchCompensate = Callable[[Sequence[Work[Back]], Connection], Awaitable[Sequence[Compensated]]]
Query = Callable[[In, StepContext], Awaitable[Out | Rejected | None]]
Poll = Callable[[StepContext], Awaitable[Sequence[Event]]]
Conclude = Callable[[Sequence[Any], StepContext], Out | Rejected | None]
Restore = Callable[[Sequence[Work[Out]], Connection], Awaitable[None]]
Pauses = Callable[[StepContext], Sequence[tuple[str, str]]]
F = TypeVar("F", bound=Callable[..., Any])

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_OUR_GROUPS: Final = frozenset({"log", "intake", "signal-router"})
"""Suffixes of the consumer groups that every saga has besides those of its participants."""


class CompensationImpossibleError(SagaError):
    """Raised by a compensation that can never succeed (the order is filled): it is not retried."""


@dataclass(slots=True)
class Binding:
    """The functions of one step; which are needed follows from whether it is local, remote or waiting."""

    step: AnyStep
    handle: Callable[..., Awaitable[Any]] | None = None
    handle_batch: Callable[..., Awaitable[Sequence[Any]]] | None = None
    compensate: Callable[..., Awaitable[Any]] | None = None
    compensate_batch: Callable[..., Awaitable[Sequence[Any]]] | None = None
    call: Callable[..., Awaitable[Any]] | None = None
    query: Callable[..., Awaitable[Any]] | None = None
    compensate_remotely: Callable[..., Awaitable[Any]] | None = None
    correlate: Callable[[Any], str] | None = None
    conclude: Callable[..., Any] | None = None
    poll: Poll | None = None
    bar: Poll | None = None
    contradict: Callable[..., str | None] | None = None
    store: ReportStore | None = None
    restore: Callable[..., Awaitable[None]] | None = None
    restore_back: Callable[..., Awaitable[None]] | None = None

    @property
    def waiting(self) -> bool:
        """Return whether the step waits for a report."""
        return self.step.waits_for is not None

    @property
    def remote(self) -> bool:
        """Return whether the step is a remote call."""
        return self.call is not None

    def missing(self) -> list[str]:
        """Return the names of the decorators that are missing for the step to run."""
        if self.waiting:
            needed = {"correlates": self.correlate, "concludes": self.conclude, "polls": self.poll, "bars": self.bar}
        elif self.remote:
            needed = {"queries": self.query}
        else:
            needed = {"handles": self.handle or self.handle_batch}
        if self.step.back is not None:
            needed["compensates"] = self.compensate or self.compensate_batch or self.compensate_remotely
        return [name for name, function in needed.items() if function is None]


class Participant(StepOwner):
    """One service's share of a saga, in all its versions.

    A step that is equal in several versions is bound once; others are bound each by itself, to the same functions or
    others. `pauses` returns the (scope, key) pairs under which an operator may have paused a step, and depends on
    the saga's facts alone: it is called again only when a pause has ended. `in_flight` limits concurrent remote calls.
    With an `evidence`, a record that the database contradicts goes to the dead letters and has no effect.
    """

    def __init__(
        self,
        name: str,
        saga: AnySaga,
        *,
        pauses: Pauses | None = None,
        in_flight: int | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        if not isinstance(saga, Saga):  # pyright: ignore[reportUnnecessaryIsInstance] - not every program is checked
            raise DefinitionError(f"participant {name!r}: {saga!r} is no saga with a step")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _OUR_GROUPS:  # pyright: ignore[reportUnnecessaryIsInstance]
            taken = ", ".join(sorted(_OUR_GROUPS))
            raise DefinitionError(f"participant {name!r}: use letters, digits, _ and -, and none of {taken}")
        self.name = name
        self.saga = saga
        self.pauses = pauses
        self.in_flight = in_flight
        self.evidence = evidence
        self.bindings: dict[str, Binding] = {}
        """By the step's name; where versions of the saga have different steps of one name, the newest one's."""
        self._bound: dict[AnyStep, Binding] = {}

    @property
    def group(self) -> str:
        """Return the name of the consumer group."""
        return f"{self.saga.name}-{self.name}"

    @property
    def steps(self) -> Collection[str]:
        """Return the names of the bound steps."""
        return self.bindings.keys()

    @property
    def answer_types(self) -> dict[bytes, str]:
        """Return the steps bound here by the wire types of their answers."""
        return {
            wire_type(self.saga.name, answer).encode(): name
            for name, binding in self.bindings.items()
            for answer in (*binding.step.answers, *binding.step.back_answers)
        }

    async def serve(self, settings: Settings) -> None:
        """Run the participant as a service until cancelled; raises `CommandError` if a server is unavailable."""
        from tradesaga.consumers.runtime.service import serve  # noqa: PLC0415  # the runtime is built on this module

        await serve(self, settings)

    def check(self) -> None:
        """Raise `DefinitionError` for a step without the functions that it needs."""
        if not self.bindings:
            raise DefinitionError(f"participant {self.name!r} handles no step of {self.saga.name!r}")
        for binding in self._bound.values():
            if missing := binding.missing():
                raise DefinitionError(
                    f"participant {self.name!r}: step {binding.step.name!r} still needs @{', @'.join(missing)}"
                )

    def _binding(self, step: AnyStep) -> Binding:
        having = self._versions_of(step)
        if not having:
            named = getattr(step, "name", step)
            raise DefinitionError(f"participant {self.name!r}: saga {self.saga.name!r} has no step {named!r}")
        if step not in self._bound:
            binding = self._bound[step] = Binding(step)
            known = self.bindings.get(step.name)
            if known is None or max(having) > max(self._versions_of(known.step)):
                self.bindings[step.name] = binding
        return self._bound[step]

    def _versions_of(self, step: AnyStep) -> list[int]:
        return [version for version, each in self.saga.versions.items() if step in each.steps]

    def under(self, version: int) -> dict[str, Binding]:
        """Return the bindings of one version of the saga, by the step's name."""
        return {step.name: self._bound[step] for step in self.saga.versions[version].steps if step in self._bound}

    def _bind(self, step: AnyStep, role: str) -> Callable[[F], F]:
        binding = self._binding(step)

        def bind(function: F) -> F:
            check_function(function, step, role, f"participant {self.name!r}, step {step.name!r}")
            if getattr(binding, role) is not None:
                raise DefinitionError(f"participant {self.name!r}: {step.name!r} has a second function for {role!r}")
            setattr(binding, role, function)
            return function

        return bind

    def handles(
        self, step: Step[In, Out, Rejected]
    ) -> Callable[[Handler[In, Out, Rejected]], Handler[In, Out, Rejected]]:
        """Bind a local handler, which runs in the batch's transaction, in a savepoint of its own."""
        return self._bind(step, "handle")

    def handles_batch(
        self, step: Step[In, Out, Rejected]
    ) -> Callable[[BatchHandler[In, Out, Rejected]], BatchHandler[In, Out, Rejected]]:
        """Bind a local batch handler, which returns one answer for each work, in the same order."""
        return self._bind(step, "handle_batch")

    def compensates(
        self, step: CompensatableStep[Any, Any, Any, Back, Compensated]
    ) -> Callable[[Compensate[Back, Compensated]], Compensate[Back, Compensated]]:
        """Bind a local compensation."""
        return self._bind(step, "compensate")

    def compensates_batch(
        self, step: CompensatableStep[Any, Any, Any, Back, Compensated]
    ) -> Callable[[BatchCompensate[Back, Compensated]], BatchCompensate[Back, Compensated]]:
        """Bind a local batch compensation."""
        return self._bind(step, "compensate_batch")

    def calls(
        self, step: Step[In, Out, Rejected]
    ) -> Callable[[Handler[In, Out, Rejected]], Handler[In, Out, Rejected]]:
        """Bind a remote handler, which runs outside any transaction, after its intent is committed."""
        return self._bind(step, "call")

    def queries(self, step: Step[In, Out, Rejected]) -> Callable[[Query[In, Out, Rejected]], Query[In, Out, Rejected]]:
        """Bind the query for a call's outcome, which returns None if the remote system has no such request."""
        return self._bind(step, "query")

    def compensates_remotely(
        self, step: CompensatableStep[Any, Any, Any, Back, Compensated]
    ) -> Callable[[Compensate[Back, Compensated]], Compensate[Back, Compensated]]:
        """Bind a remote compensation, which must be idempotent."""
        return self._bind(step, "compensate_remotely")

    def correlates(self, step: AnyStep) -> Callable[[Callable[[Any], str]], Callable[[Any], str]]:
        """Bind the function that returns a report's id at the remote system."""
        return self._bind(step, "correlate")

    def concludes(self, step: Step[Any, Out, Rejected]) -> Callable[[Conclude[Out, Rejected]], Conclude[Out, Rejected]]:
        """Bind the pure function that returns the answer from all reports so far, or None while it is open."""
        return self._bind(step, "conclude")

    def polls(self, step: AnyStep) -> Callable[[Poll], Poll]:
        """Bind the function that reads reports from the remote system, called when none came for the step's timeout."""
        return self._bind(step, "poll")

    def bars(self, step: AnyStep) -> Callable[[Poll], Poll]:
        """Bind the function that makes the remote system stop producing reports, and returns the final ones."""
        return self._bind(step, "bar")

    def contradicts(
        self, step: Step[Any, Out, Rejected]
    ) -> Callable[[Callable[[Out | Rejected | None, Any], str | None]], Callable[..., str | None]]:
        """Bind the pure function that returns why a late report contradicts the answer (None if barred), or None."""
        return self._bind(step, "contradict")

    def stores_reports(self, step: AnyStep, store: ReportStore) -> None:
        """Make a waiting step answer from the reports in `store` instead of records of the topic."""
        binding = self._binding(step)
        if binding.store is not None:
            raise DefinitionError(f"participant {self.name!r}: {step.name!r} has a second store of reports")
        binding.store = store

    def restores(self, step: Step[Any, Out, Any]) -> Callable[[Restore[Out]], Restore[Out]]:
        """Bind the function that redoes a local effect from the step's answers, after its database was lost."""
        return self._bind(step, "restore")

    def restores_back(
        self, step: CompensatableStep[Any, Any, Any, Any, Compensated]
    ) -> Callable[[Restore[Compensated]], Restore[Compensated]]:
        """Bind the function that redoes the effect of a local compensation from its answers."""
        return self._bind(step, "restore_back")
