"""What one record is to its saga, and the sentence that says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from tradesaga.consumers.audit.report.model import Gain, Kind, Moment
from tradesaga.consumers.audit.report.payload import read_members, read_text, text_of
from tradesaga.consumers.audit.report.trade_text import phrase
from tradesaga.consumers.saga_log.checkpoint import Tracked
from tradesaga.consumers.saga_log.outcome import Outcome
from tradesaga.infra.kafka.codec import Record
from tradesaga.sagas.facts import Meaning
from tradesaga.sagas.machine import BarStep, CompensateStep, Order
from tradesaga.sagas.status import Status
from tradesaga.schemas.envelope import CONTEXT, STEP, TYPE
from tradesaga.schemas.messages import lifecycle

_KINDS: Final = {
    Meaning.STARTED: Kind.START,
    Meaning.DONE: Kind.STEP_COMPLETE,
    Meaning.REFUSED: Kind.STEP_REFUSED,
    Meaning.ATTEMPTED: Kind.ATTEMPT_FAILED,
    Meaning.FAILED: Kind.STEP_FAILED,
    Meaning.UNKNOWN: Kind.STEP_UNKNOWN,
    Meaning.BARRED: Kind.STEP_BARRED,
    Meaning.COMPENSATED: Kind.COMPENSATED,
    Meaning.COMPENSATION_FAILED: Kind.COMPENSATION_FAILED,
    Meaning.CONTRADICTED: Kind.CONTRADICTED,
    Meaning.DEADLINE: Kind.DEADLINE,
    Meaning.ABORT: Kind.OPERATOR,
    Meaning.RETRY: Kind.OPERATOR,
    Meaning.SKIP: Kind.OPERATOR,
    Meaning.RESOLVE: Kind.OPERATOR,
    Meaning.RECHECK: Kind.OPERATOR,
    Meaning.UNOWNED: Kind.STEP_UNOWNED,
    Meaning.RECORDED: Kind.REPORTED,
}
_BY_NAME: Final = {
    lifecycle.AttemptFailed.NAME: Kind.ATTEMPT_FAILED,
    lifecycle.StepFailed.NAME: Kind.STEP_FAILED,
    lifecycle.StepUnknown.NAME: Kind.STEP_UNKNOWN,
    lifecycle.StepBarred.NAME: Kind.STEP_BARRED,
    lifecycle.StepContradicted.NAME: Kind.CONTRADICTED,
    lifecycle.CompensationFailed.NAME: Kind.COMPENSATION_FAILED,
    lifecycle.DeadlineElapsed.NAME: Kind.DEADLINE,
    lifecycle.AbortRequested.NAME: Kind.OPERATOR,
    lifecycle.RetryRequested.NAME: Kind.OPERATOR,
    lifecycle.SkipRequested.NAME: Kind.OPERATOR,
    lifecycle.ResolveRequested.NAME: Kind.OPERATOR,
    lifecycle.RecheckRequested.NAME: Kind.OPERATOR,
    lifecycle.StepUnowned.NAME: Kind.STEP_UNOWNED,
    lifecycle.ParkReleased.NAME: Kind.OPERATOR,
}
"""What a message of every saga is, whether or not the saga's definition is at hand."""
_CHANGING: Final = frozenset({
    Kind.START, Kind.STEP_COMPLETE, Kind.STEP_REFUSED, Kind.STEP_FAILED, Kind.STEP_BARRED, Kind.COMPENSATED,
    Kind.COMPENSATION_FAILED, Kind.CONTRADICTED,
})  # fmt: skip
"""Kinds of which one that changes nothing has been said before, or comes too late."""
_ENDED: Final = frozenset({Status.COMPLETED, Status.ABORTED})


@dataclass(frozen=True)
class Reading:
    """A record's headers and payload, whatever they hold."""

    headers: dict[str, bytes]
    payload: str | None

    @classmethod
    def of(cls, record: Record) -> "Reading":
        """Read a record."""
        return cls(dict(record.headers), read_text(record.value))

    def _text(self, name: str) -> str:
        return (self.headers.get(name) or b"").decode("utf-8", "backslashreplace")

    def _number(self, name: str) -> int:
        text = self._text(name)
        return int(text) if text.isascii() and text.isdigit() and len(text) < 11 else 0  # noqa: PLR2004 - of 32 bits

    @cached_property
    def said(self) -> dict[str, Any]:
        """Give the payload's members."""
        return read_members(self.payload)

    @property
    def type(self) -> str:
        """Give the wire type."""
        return self._text(TYPE)

    @property
    def saga(self) -> str:
        """Give the saga's name, the first part of the type."""
        return self.type.partition(".")[0]

    @property
    def message(self) -> str:
        """Give the message's name, the type without saga and version."""
        return self.type.partition(".")[2].rpartition(".v")[0]

    @property
    def id(self) -> str:
        """Give the id under which it was said."""
        return self._text("ce_id")

    @property
    def writer(self) -> str:
        """Give who says so."""
        return self._text("ce_source")

    @property
    def caused_by(self) -> str:
        """Give the id of the record that brought this one about."""
        return self._text("ce_causationid")

    @property
    def step(self) -> str:
        """Give the step that it is about."""
        return self._text(STEP) or text_of(self.said, "step")

    @property
    def attempt(self) -> int:
        """Give which attempt it is the outcome of; 0 for none."""
        return self._number("ts_attempt")

    @property
    def round(self) -> int:
        """Give the round, which a person's decision begins anew."""
        return self._number("ts_round") or 1

    @property
    def back(self) -> bool:
        """Say whether it is about taking the step back, as far as that can be told without a definition."""
        named = self.message == lifecycle.CompensationFailed.NAME
        return named or text_of(self.said, "direction") == "back"

    def own_gain(self) -> tuple[Gain, ...]:
        """Give the context's gain by the context that the record itself carries: its last member is what it adds."""
        context = read_members(read_text(self.headers.get(CONTEXT) or b""))
        last = next(reversed(context), "")
        return (Gain(last, self.payload),) if self.payload is not None and last and last == self.message else ()


def judge(reading: Reading, outcome: Outcome | None, before: Tracked, *, again: bool) -> Kind:
    """Say what the record is; `again` says that one with its id has counted before."""
    if not reading.headers:
        return Kind.UNREADABLE
    if outcome is None:
        return Kind.DUPLICATE if again else _guess(reading)
    if outcome.parked is not None:
        return Kind.PARKED
    if outcome.fact is None:
        return Kind.SET_ASIDE
    kind = _BY_NAME.get(reading.message) if outcome.fact.meaning is Meaning.RECORDED else _KINDS[outcome.fact.meaning]
    if again:
        return Kind.DUPLICATE
    kind = kind or Kind.REPORTED
    unchanged = outcome.tracked is not None and _told(outcome.tracked) == _told(before)
    if kind in _CHANGING and unchanged and before.checkpoint is not None:
        return Kind.LATE if before.checkpoint.status in _ENDED else Kind.DUPLICATE
    if kind is Kind.REPORTED and before.checkpoint is not None and before.checkpoint.status in _ENDED:
        return Kind.LATE
    return kind


def _told(tracked: Tracked) -> object:
    return tracked.checkpoint.state if tracked.checkpoint is not None else None


def _guess(reading: Reading) -> Kind:
    """Say what can be told without the saga's definition: its own messages are starts, steps, or just reports."""
    if (kind := _BY_NAME.get(reading.message)) is not None:
        return kind
    if reading.own_gain():
        return Kind.STEP_COMPLETE if reading.step else Kind.START
    return Kind.REPORTED


def say(kind: Kind, reading: Reading, outcome: Outcome | None) -> str:
    """Give the sentence."""
    words = phrase(reading.saga, reading.message, reading.said)
    step = reading.step or "the saga"
    attempts = text_of(reading.said, "attempts") or "0"
    told = {
        Kind.START: words or f"the saga starts ({reading.message})",
        Kind.STEP_COMPLETE: words or f"{step} is done ({reading.message})",
        Kind.STEP_REFUSED: words or f"{step} is refused ({reading.message})",
        Kind.ATTEMPT_FAILED: f"attempt {reading.attempt} at {_what(reading)} has failed",
        Kind.STEP_FAILED: f"{step} has failed for good, after {_attempts(attempts)}",
        Kind.STEP_UNKNOWN: f"nobody knows yet whether attempt {reading.attempt} of {step} has happened",
        Kind.STEP_UNOWNED: f"{step} has no owner that is known, and nobody answers for it",
        Kind.STEP_BARRED: f"{step} has not happened and never will",
        Kind.COMPENSATED: words or f"{step} is taken back ({reading.message})",
        Kind.COMPENSATION_FAILED: f"{step} could not be taken back, after {_attempts(attempts)}: it still stands",
        Kind.CONTRADICTED: f"what {step} has answered is contradicted from outside",
        Kind.DEADLINE: "the saga's time is up",
        Kind.OPERATOR: _decision(reading),
        Kind.REPORTED: words or f"{reading.message or 'a record'} is recorded",
        Kind.DUPLICATE: f"the same again: {reading.message}; it changes nothing",
        Kind.LATE: f"too late to change anything: {words or reading.message}",
        Kind.PARKED: f"{reading.message or 'a record'} is set aside until a person lets it go",
        Kind.SET_ASIDE: f"{reading.message or 'a record'} does not count",
        Kind.UNREADABLE: "a row of which the headers cannot be read",
    }[kind]
    if outcome is None or not outcome.refused or kind is Kind.SET_ASIDE:
        return told
    return f"{told} \N{EN DASH} in vain"


def _what(reading: Reading) -> str:
    return f"taking {reading.step} back" if reading.back else reading.step


def _attempts(number: str) -> str:
    return "one attempt" if number == "1" else f"{number} attempts"


def _decision(reading: Reading) -> str:
    """Say what a person has decided."""
    who, step = text_of(reading.said, "operator") or "somebody", reading.step
    place = f"{text_of(reading.said, 'topic')}[{text_of(reading.said, 'partition')}]@{text_of(reading.said, 'offset')}"
    deed = "lets go what is parked at" if text_of(reading.said, "action") == "retry" else "discards what is parked at"
    return {
        lifecycle.AbortRequested.NAME: f"{who} has the saga taken back",
        lifecycle.RetryRequested.NAME: f"{who} has {step} tried again",
        lifecycle.SkipRequested.NAME: f"{who} leaves {step} standing",
        lifecycle.ResolveRequested.NAME: f"{who} closes the saga as {text_of(reading.said, 'outcome')}",
        lifecycle.RecheckRequested.NAME: f"{who} has the owner of each step say again what came of it",
        lifecycle.ParkReleased.NAME: f"{who} {deed} {place}",
    }.get(reading.message, f"{who} has decided: {reading.message}")


def follow_orders(steps: Sequence[str], orders: Sequence[Order]) -> list[Moment]:
    """Give what the saga log asks of the steps' owners."""
    moments: list[Moment] = []
    for order in orders:
        step = steps[order.step]
        if isinstance(order, BarStep):
            moments.append(Moment(Kind.BAR_ASKED, f"{step} is asked to settle: done, or never", step))
        elif isinstance(order, CompensateStep):
            again = f", round {order.round}" if order.round > 1 else ""
            moments.append(Moment(Kind.COMPENSATION_ASKED, f"{step} is asked to be taken back{again}", step))
        else:
            moments.append(Moment(Kind.RETRY, f"{step} is asked for again, round {order.round}", step))
    return moments
