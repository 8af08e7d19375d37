"""The kind of each record in its saga's report, and its sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from tradesaga.consumers.audit.report.formatting import read_members, read_text
from tradesaga.consumers.audit.report.model import ContextAddition, RecordKind, TimelineNote
from tradesaga.consumers.saga_log.fold import FoldResult
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.kafka.codec import Record
from tradesaga.sagas.audit_text import AuditText, text_of
from tradesaga.sagas.facts import Meaning
from tradesaga.sagas.machine import BarStep, CompensateStep, StepCommand
from tradesaga.sagas.status import Status
from tradesaga.schemas.envelope import CONTEXT, STEP, TYPE
from tradesaga.schemas.messages import lifecycle

_KINDS: Final = {
    Meaning.STARTED: RecordKind.START,
    Meaning.DONE: RecordKind.STEP_COMPLETE,
    Meaning.REFUSED: RecordKind.STEP_REFUSED,
    Meaning.ATTEMPTED: RecordKind.ATTEMPT_FAILED,
    Meaning.FAILED: RecordKind.STEP_FAILED,
    Meaning.UNKNOWN: RecordKind.STEP_UNKNOWN,
    Meaning.BARRED: RecordKind.STEP_BARRED,
    Meaning.COMPENSATED: RecordKind.COMPENSATED,
    Meaning.COMPENSATION_FAILED: RecordKind.COMPENSATION_FAILED,
    Meaning.CONTRADICTED: RecordKind.CONTRADICTED,
    Meaning.DEADLINE: RecordKind.DEADLINE,
    Meaning.UNOWNED: RecordKind.STEP_UNOWNED,
    **dict.fromkeys(
        (Meaning.ABORT, Meaning.RETRY, Meaning.SKIP, Meaning.RESOLVE, Meaning.RECHECK), RecordKind.OPERATOR
    ),
    Meaning.RECORDED: RecordKind.REPORTED,
}
_BY_NAME: Final = {
    lifecycle.AttemptFailed.NAME: RecordKind.ATTEMPT_FAILED,
    lifecycle.StepFailed.NAME: RecordKind.STEP_FAILED,
    lifecycle.StepUnknown.NAME: RecordKind.STEP_UNKNOWN,
    lifecycle.StepBarred.NAME: RecordKind.STEP_BARRED,
    lifecycle.StepContradicted.NAME: RecordKind.CONTRADICTED,
    lifecycle.CompensationFailed.NAME: RecordKind.COMPENSATION_FAILED,
    lifecycle.DeadlineElapsed.NAME: RecordKind.DEADLINE,
    lifecycle.AbortRequested.NAME: RecordKind.OPERATOR,
    lifecycle.RetryRequested.NAME: RecordKind.OPERATOR,
    lifecycle.SkipRequested.NAME: RecordKind.OPERATOR,
    lifecycle.ResolveRequested.NAME: RecordKind.OPERATOR,
    lifecycle.RecheckRequested.NAME: RecordKind.OPERATOR,
    lifecycle.StepUnowned.NAME: RecordKind.STEP_UNOWNED,
    lifecycle.ParkReleased.NAME: RecordKind.OPERATOR,
}
"""The kinds of lifecycle messages, which do not depend on the saga's definition."""
_CHANGING: Final = frozenset(
    {
        RecordKind.START,
        RecordKind.STEP_COMPLETE,
        RecordKind.STEP_REFUSED,
        RecordKind.STEP_FAILED,
        RecordKind.STEP_BARRED,
        RecordKind.COMPENSATED,
        RecordKind.COMPENSATION_FAILED,
        RecordKind.CONTRADICTED,
    }
)
"""Kinds whose records are duplicates or late if they change nothing."""
_ENDED: Final = frozenset({Status.COMPLETED, Status.ABORTED})


@dataclass(frozen=True)
class RawRecord:
    """A record's headers and payload, which may have any content."""

    headers: dict[str, bytes]
    payload: str | None

    @classmethod
    def of(cls, record: Record) -> "RawRecord":
        """Read a record."""
        return cls(dict(record.headers), read_text(record.value))

    def _text(self, name: str) -> str:
        return (self.headers.get(name) or b"").decode("utf-8", "backslashreplace")

    def _number(self, name: str) -> int:
        text = self._text(name)
        return int(text) if text.isascii() and text.isdigit() and len(text) < 11 else 0  # noqa: PLR2004 - of 32 bits

    @cached_property
    def members(self) -> dict[str, Any]:
        """The members of the payload."""
        return read_members(self.payload)

    @property
    def type(self) -> str:
        """The wire type."""
        return self._text(TYPE)

    @property
    def saga(self) -> str:
        """The saga's name: the first part of the type."""
        return self.type.partition(".")[0]

    @property
    def message(self) -> str:
        """The message's name: the type without saga and version."""
        return self.type.partition(".")[2].rpartition(".v")[0]

    @property
    def id(self) -> str:
        """The event id."""
        return self._text("ce_id")

    @property
    def writer(self) -> str:
        """The source."""
        return self._text("ce_source")

    @property
    def caused_by(self) -> str:
        """The event id of the record that caused this one."""
        return self._text("ce_causationid")

    @property
    def step(self) -> str:
        """The step that the record concerns."""
        return self._text(STEP) or text_of(self.members, "step")

    @property
    def attempt(self) -> int:
        """The number of the attempt with this outcome; 0 for none."""
        return self._number("ts_attempt")

    @property
    def round(self) -> int:
        """The round; an operator's retry begins a new one."""
        return self._number("ts_round") or 1

    @property
    def back(self) -> bool:
        """Whether the record concerns a compensation, as far as it shows without the definition."""
        named = self.message == lifecycle.CompensationFailed.NAME
        return named or text_of(self.members, "direction") == "back"

    def own_addition(self) -> tuple[ContextAddition, ...]:
        """Return what the record adds to the context: the last member of the context in its headers."""
        context = read_members(read_text(self.headers.get(CONTEXT) or b""))
        last = next(reversed(context), "")
        return (
            (ContextAddition(last, self.payload),) if self.payload is not None and last and last == self.message else ()
        )


def classify(raw: RawRecord, outcome: FoldResult | None, before: Tracked, *, again: bool) -> RecordKind:
    """Return the kind of a record; `again` is whether a record with its id came before."""
    if not raw.headers:
        return RecordKind.UNREADABLE
    if outcome is None:
        return RecordKind.DUPLICATE if again else _guess(raw)
    if outcome.parked is not None:
        return RecordKind.PARKED
    if outcome.fact is None:
        return RecordKind.SET_ASIDE
    kind = _BY_NAME.get(raw.message) if outcome.fact.meaning is Meaning.RECORDED else _KINDS[outcome.fact.meaning]
    if again:
        return RecordKind.DUPLICATE
    kind = kind or RecordKind.REPORTED
    unchanged = outcome.tracked is not None and _state_of(outcome.tracked) == _state_of(before)
    if kind in _CHANGING and unchanged and before.snapshot is not None:
        return RecordKind.LATE if before.snapshot.status in _ENDED else RecordKind.DUPLICATE
    if kind is RecordKind.REPORTED and before.snapshot is not None and before.snapshot.status in _ENDED:
        return RecordKind.LATE
    return kind


def _state_of(tracked: Tracked) -> object:
    return tracked.snapshot.state if tracked.snapshot is not None else None


def _guess(raw: RawRecord) -> RecordKind:
    """Return the kind without the saga's definition: its messages are starts, steps or reports."""
    if (kind := _BY_NAME.get(raw.message)) is not None:
        return kind
    if raw.own_addition():
        return RecordKind.STEP_COMPLETE if raw.step else RecordKind.START
    return RecordKind.REPORTED


def describe_record(kind: RecordKind, raw: RawRecord, outcome: FoldResult | None, text: AuditText | None) -> str:
    """Return the sentence for a record, from its saga's texts where these have one."""
    words = text.sentence(raw.message, raw.members) if text is not None and text.saga.name == raw.saga else ""
    step = raw.step or "the saga"
    attempts = _attempts(text_of(raw.members, "attempts") or "0")
    told = {
        RecordKind.START: words or f"the saga started ({raw.message})",
        RecordKind.STEP_COMPLETE: words or f"{step} completed ({raw.message})",
        RecordKind.STEP_REFUSED: words or f"{step} was rejected ({raw.message})",
        RecordKind.ATTEMPT_FAILED: f"attempt {raw.attempt} {_what(raw)} failed",
        RecordKind.STEP_FAILED: f"{step} failed after {attempts}; it is not retried automatically",
        RecordKind.STEP_UNKNOWN: f"the outcome of attempt {raw.attempt} of {step} is unknown",
        RecordKind.STEP_UNOWNED: f"{step} has no known owner and is unanswered",
        RecordKind.STEP_BARRED: f"{step} was barred: it has not happened and never will",
        RecordKind.COMPENSATED: words or f"{step} was compensated ({raw.message})",
        RecordKind.COMPENSATION_FAILED: f"the compensation of {step} failed after {attempts}; its effect remains",
        RecordKind.CONTRADICTED: f"the answer of {step} was contradicted from outside",
        RecordKind.DEADLINE: "the saga's deadline elapsed",
        RecordKind.OPERATOR: _decision(raw),
        RecordKind.REPORTED: words or f"{raw.message or 'a record'} was recorded",
        RecordKind.DUPLICATE: f"duplicate {raw.message or 'record'}, no effect",
        RecordKind.LATE: f"received after the saga ended, no effect: {words or raw.message}",
        RecordKind.PARKED: f"{raw.message or 'a record'} was parked until it is released",
        RecordKind.SET_ASIDE: f"{raw.message or 'a record'} was ignored",
        RecordKind.UNREADABLE: "a record whose headers cannot be read",
    }[kind]
    if outcome is None or not outcome.refused or kind is RecordKind.SET_ASIDE:
        return told
    return f"rejected: {told}"


def _what(raw: RawRecord) -> str:
    return f"to compensate {raw.step}" if raw.back else f"of {raw.step}"


def _attempts(number: str) -> str:
    return "one attempt" if number == "1" else f"{number} attempts"


def _decision(raw: RawRecord) -> str:
    """Return the sentence of an operator's decision."""
    who, step = text_of(raw.members, "operator") or "an unnamed operator", raw.step
    place = f"{text_of(raw.members, 'topic')}[{text_of(raw.members, 'partition')}]@{text_of(raw.members, 'offset')}"
    verb = "released" if text_of(raw.members, "action") == "retry" else "discarded"
    return {
        lifecycle.AbortRequested.NAME: f"{who} requested an abort of the saga",
        lifecycle.RetryRequested.NAME: f"{who} requested a retry of {step}",
        lifecycle.SkipRequested.NAME: f"{who} requested to skip {step}",
        lifecycle.ResolveRequested.NAME: f"{who} requested to resolve the saga as {text_of(raw.members, 'outcome')}",
        lifecycle.RecheckRequested.NAME: f"{who} requested a recheck of all steps",
        lifecycle.ParkReleased.NAME: f"{who} {verb} the record parked at {place}",
    }.get(raw.message, f"{who} requested {raw.message}")


def describe_orders(steps: Sequence[str], orders: Sequence[StepCommand]) -> list[TimelineNote]:
    """Return the commands of the saga log to the steps' owners."""
    notes: list[TimelineNote] = []
    for order in orders:
        step = steps[order.step]
        if isinstance(order, BarStep):
            notes.append(
                TimelineNote(RecordKind.BAR_ASKED, f"settlement of {step} requested: completed or barred", step)
            )
        elif isinstance(order, CompensateStep):
            again = f", round {order.round}" if order.round > 1 else ""
            notes.append(TimelineNote(RecordKind.COMPENSATION_ASKED, f"compensation of {step} requested{again}", step))
        else:
            notes.append(TimelineNote(RecordKind.RETRY, f"retry of {step} requested, round {order.round}", step))
    return notes
