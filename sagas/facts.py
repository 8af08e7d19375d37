"""Read a record's headers as a fact of its saga."""

from enum import Enum
from typing import Final, NamedTuple

from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.status import Status
from tradesaga.schemas.messages import lifecycle
from tradesaga.schemas.messages.message import Event, wire_type


class Meaning(Enum):
    """What a fact does to a saga's state."""

    STARTED = "started"
    DONE = "done"
    REFUSED = "refused"
    ATTEMPTED = "attempted"
    FAILED = "failed"
    UNKNOWN = "unknown"
    BARRED = "barred"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation failed"
    CONTRADICTED = "contradicted"
    DEADLINE = "deadline"
    ABORT = "abort"
    RETRY = "retry"
    SKIP = "skip"
    RESOLVE = "resolve"
    RECHECK = "recheck"
    UNOWNED = "unowned"
    RECORDED = "recorded"

    # The default hashes the name, in Python code; each fact is looked up several times.
    __hash__ = object.__hash__

    @property
    def by_operator(self) -> bool:
        """Return whether it is an operator's decision; each of those is folded once, in partition order."""
        return self in _BY_OPERATOR


class Fact(NamedTuple):
    """A fact, reduced to what the state machine uses.

    `step` is the step's index, -1 if there is none; `id` the `ce_id`, or for a contradiction the venue's id.
    """

    meaning: Meaning
    step: int = -1
    round: int = 1
    id: str = ""
    outcome: Status | None = None


_BY_OPERATOR: Final = frozenset({Meaning.ABORT, Meaning.RETRY, Meaning.SKIP, Meaning.RESOLVE, Meaning.RECHECK})
_OF_A_STEP: Final = frozenset({
    Meaning.ATTEMPTED, Meaning.FAILED, Meaning.UNKNOWN, Meaning.BARRED, Meaning.COMPENSATION_FAILED, Meaning.UNOWNED,
})  # fmt: skip
_GENERIC: Final[dict[type[Event], Meaning]] = {
    lifecycle.AttemptFailed: Meaning.ATTEMPTED,
    lifecycle.StepFailed: Meaning.FAILED,
    lifecycle.StepUnknown: Meaning.UNKNOWN,
    lifecycle.StepBarred: Meaning.BARRED,
    lifecycle.StepContradicted: Meaning.CONTRADICTED,
    lifecycle.CompensationFailed: Meaning.COMPENSATION_FAILED,
    lifecycle.DeadlineElapsed: Meaning.DEADLINE,
    lifecycle.AbortRequested: Meaning.ABORT,
    lifecycle.RetryRequested: Meaning.RETRY,
    lifecycle.SkipRequested: Meaning.SKIP,
    lifecycle.ResolveRequested: Meaning.RESOLVE,
    lifecycle.RecheckRequested: Meaning.RECHECK,
    lifecycle.StepUnowned: Meaning.UNOWNED,
    lifecycle.StartRefused: Meaning.RECORDED,
    lifecycle.ParkReleased: Meaning.RECORDED,
}


class Vocabulary:
    """The facts of one saga's events topic: wire type → (meaning, step index or -1)."""

    def __init__(self, saga: AnySaga) -> None:
        self.saga = saga
        self._steps = {each.name: index for index, each in enumerate(saga.steps)}
        self._meanings: dict[str, tuple[Meaning, int]] = {
            wire_type(saga.name, message): (meaning, -1) for message, meaning in _GENERIC.items()
        }
        for ce_type, message in saga.registry.items():
            if issubclass(message, Event):
                self._meanings.setdefault(ce_type, (Meaning.RECORDED, -1))
        self._learn(saga.start, Meaning.STARTED, -1)
        for index, each in enumerate(saga.steps):
            self._learn(each.emits, Meaning.DONE, index)
            if each.rejects is not None:
                self._learn(each.rejects, Meaning.REFUSED, index)
            if each.back is not None:
                self._learn(each.back[1], Meaning.COMPENSATED, index)

    def _learn(self, event: type[Event], meaning: Meaning, step: int) -> None:
        for version in (event, *event.EARLIER):
            self._meanings[wire_type(self.saga.name, version)] = (meaning, step)

    def read(self, ce_type: str, ce_id: str, step: str, round_: int, value: bytes) -> Fact:
        """Return the fact of a record; the value is parsed only for an operator's decision or a contradiction.

        Raises `KeyError` for an unknown type or step, and `pydantic.ValidationError` for an invalid value.
        """
        meaning, index = self._meanings[ce_type]
        if meaning in _OF_A_STEP:
            return Fact(meaning, self._steps[step], round_, ce_id)
        if meaning is Meaning.CONTRADICTED:
            said = lifecycle.StepContradicted.from_wire(value)
            return Fact(meaning, self._steps[said.step], id=said.venue_id)
        if meaning in {Meaning.RETRY, Meaning.SKIP}:
            named = lifecycle.RetryRequested.from_wire(value)
            return Fact(meaning, self._steps[named.step], id=ce_id)
        if meaning is Meaning.RESOLVE:
            resolved = lifecycle.ResolveRequested.from_wire(value)
            return Fact(meaning, id=ce_id, outcome=Status(resolved.outcome))
        if meaning is Meaning.ABORT:
            lifecycle.AbortRequested.from_wire(value)
        if meaning is Meaning.RECHECK:
            lifecycle.RecheckRequested.from_wire(value)
        return Fact(meaning, index, round_, ce_id)
