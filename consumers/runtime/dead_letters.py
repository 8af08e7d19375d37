"""Handle records and rows that cannot be processed: dead letters, failed steps, skipped rows."""

import structlog
from pydantic import ValidationError

from tradesaga.consumers.runtime.apply_outcome import apply_transition
from tradesaga.consumers.runtime.batch_context import BatchContext
from tradesaga.consumers.runtime.event_factory import Trigger, pack_message, tidy
from tradesaga.consumers.runtime.message import Message, UnknownVersionError
from tradesaga.consumers.runtime.step_rows import Key
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.dead_letters import CONTRADICTION, READING_ERRORS, RecordFault
from tradesaga.infra.kafka.dead_letters import dead_letter as make_dead_letter
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.decide import Action, StepMessage, decide, give_up
from tradesaga.sagas.step_state import NO_ROW, RowStatus
from tradesaga.schemas.invalid import describe_invalid

UNJUDGEABLE = READING_ERRORS
_LOOK_AGAIN = 5.0
"""Seconds until a row that could not be processed is tried again."""

_WAIT_FOR_VERSION = 10.0
"""The same for a row of a saga whose version is not registered here; a service that has the version finds it due."""


def dead_letter(batch: BatchContext, lane: int, record: Record, fault: RecordFault) -> None:
    """Copy a record to the dead letters, and count it."""
    saga, group = batch.runtime.saga, batch.runtime.group
    batch.transaction.emit(lane, make_dead_letter(saga, group, record, fault, batch.runtime.now()))
    batch.counts[metrics.DEAD_LETTERS.labels(group, fault.kind)] += 1
    place = f"{record.topic}[{record.partition}]@{record.offset}"
    structlog.get_logger("participant").error(
        "dead letter", group=group, place=place, kind=fault.kind, why=fault.reason
    )


def fail_step(batch: BatchContext, message: Message, error: Exception) -> None:
    """Copy a message that cannot be processed to the dead letters, and fail its step where that is safe."""
    reason = tidy(f"{message.payload.NAME} cannot be processed: {_describe(error)}")
    dead_letter(
        batch, message.lane, message.record, RecordFault("poison", reason, f"{batch.runtime.group}/{message.key[1]}")
    )
    row = batch.rows.get(message.key)
    state, step = row or NO_ROW, message.binding.step
    decided = give_up(state, decide(state, message.kind, step, message.envelope.round))
    if decided.action is not Action.NOTHING:
        row = row or batch.open_row(message, RowStatus.FAILED)
        if message.kind is StepMessage.TRIGGER:
            row.input = row.input or pack_message(message)
        apply_transition(batch, row, Trigger.of(message), decided, message.lane, reason=reason)


def dead_letter_contradiction(batch: BatchContext, message: Message, reason: str) -> None:
    """Copy a record that the database contradicts to the dead letters; it has no other effect."""
    fault = RecordFault(
        CONTRADICTION, tidy(f"{message.payload.NAME}: {reason}"), f"{batch.runtime.group}/{message.key[1]}"
    )
    dead_letter(batch, message.lane, message.record, fault)


def skip_row(batch: BatchContext, key: Key, error: Exception) -> None:
    """Skip a row that cannot be processed: fail its step where that is safe, else try again later."""
    row = batch.rows[key]
    reason = tidy(f"the row of {row.step!r} cannot be processed: {_describe(error)}")
    log = structlog.get_logger("participant").bind(saga_id=str(row.saga_id), step=row.step)
    if isinstance(error, UnknownVersionError):
        log.warning("row waits for its saga's version", status=row.status.name, why=reason)
        row.wait = _WAIT_FOR_VERSION
        batch.touch(row)
        return
    log.error("row cannot be processed", status=row.status.name, why=reason)
    step = batch.runtime.bindings.newest(row.step).step
    decided = give_up(row, decide(row, StepMessage.DUE, step))
    if decided.action is Action.NOTHING:
        row.wait = _LOOK_AGAIN
        batch.touch(row)
    else:
        apply_transition(batch, row, None, decided, row.lane, reason=reason)


def _describe(error: Exception) -> str:
    """Describe an error without the value, which may be confidential."""
    if isinstance(error, ValidationError):
        return describe_invalid(error, "value")
    return f"{type(error).__name__}: {error}"
