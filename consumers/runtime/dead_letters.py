"""What cannot be judged: its bytes are kept, its step answers for it, and no other saga is held up."""

import structlog
from pydantic import ValidationError

from tradesaga.consumers.runtime.apply_outcome import carry_out
from tradesaga.consumers.runtime.batch_context import Docket
from tradesaga.consumers.runtime.bindings import UnknownVersionError
from tradesaga.consumers.runtime.event_factory import tidy
from tradesaga.consumers.runtime.message import Message
from tradesaga.consumers.runtime.step_rows import Key
from tradesaga.consumers.runtime.trigger import Cause, keep
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.dead_letters import CONTRADICTION, READING_ERRORS, RecordFault, dead_letter
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.decide import Action, StepMessage, decide, give_up
from tradesaga.sagas.step_state import NO_ROW, RowStatus
from tradesaga.schemas.invalid import describe_invalid

UNJUDGEABLE = READING_ERRORS
_LOOK_AGAIN = 5.0
"""Seconds until a row is taken up again of which nothing more can be known now."""

_WAIT_FOR_VERSION = 10.0
"""The same for a row of a saga whose version is not registered here; a service that knows it finds the row due."""


def bury(docket: Docket, lane: int, record: Record, fault: RecordFault) -> None:
    """Copy a record to the dead letters, and count it."""
    saga, group = docket.around.saga, docket.around.group
    docket.transaction.emit(lane, dead_letter(saga, group, record, fault, docket.around.now()))
    docket.counts[metrics.DEAD_LETTERS.labels(group, fault.kind)] += 1
    place = f"{record.topic}[{record.partition}]@{record.offset}"
    structlog.get_logger("participant").error(
        "dead letter", group=group, place=place, kind=fault.kind, why=fault.reason
    )


def refuse(docket: Docket, message: Message, error: Exception) -> None:
    """Answer for a message that cannot be judged."""
    reason = tidy(f"{message.payload.NAME} cannot be judged: {_told(error)}")
    bury(docket, message.lane, message.record, RecordFault("poison", reason, f"{docket.around.group}/{message.key[1]}"))
    row = docket.rows.get(message.key)
    state, step = row or NO_ROW, message.binding.step
    decided = give_up(state, decide(state, message.kind, step, message.envelope.round))
    if decided.action is not Action.NOTHING:
        row = row or docket.open_row(message, RowStatus.FAILED)
        if message.kind is StepMessage.TRIGGER:
            row.input = row.input or keep(message)
        carry_out(docket, row, Cause.of(message), decided, message.lane, reason=reason)


def contradict(docket: Docket, message: Message, reason: str) -> None:
    """Copy a record that the database contradicts to the dead letters; it has no other effect."""
    fault = RecordFault(
        CONTRADICTION, tidy(f"{message.payload.NAME}: {reason}"), f"{docket.around.group}/{message.key[1]}"
    )
    bury(docket, message.lane, message.record, fault)


def leave(docket: Docket, key: Key, error: Exception) -> None:
    """Go on without a row that cannot be judged: ended where that is known to be true, looked at again where not."""
    row = docket.rows[key]
    reason = tidy(f"the row of {row.step!r} cannot be judged: {_told(error)}")
    log = structlog.get_logger("participant").bind(saga_id=str(row.saga_id), step=row.step)
    if isinstance(error, UnknownVersionError):
        log.warning("row waits for its saga's version", status=row.status.name, why=reason)
        row.wait = _WAIT_FOR_VERSION
        docket.touch(row)
        return
    log.error("row cannot be judged", status=row.status.name, why=reason)
    step = docket.around.bindings.newest(row.step).step
    decided = give_up(row, decide(row, StepMessage.DUE, step))
    if decided.action is Action.NOTHING:
        row.wait = _LOOK_AGAIN
        docket.touch(row)
    else:
        carry_out(docket, row, None, decided, row.lane, reason=reason)


def _told(error: Exception) -> str:
    """Say what is wrong without the value, which may be confidential."""
    if isinstance(error, ValidationError):
        return describe_invalid(error, "value")
    return f"{type(error).__name__}: {error}"
