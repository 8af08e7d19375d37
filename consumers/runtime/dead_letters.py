"""Handle records and rows that cannot be processed: dead letters, failed steps, skipped rows, parked records.

Records whose saga's version is not registered here are parked in the table `parked` under the participant's group.
Nothing is published for them, so their sagas wait, as they do while a service is down. A service that has the version
processes them when it acquires the lanes.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

import structlog
from pydantic import ValidationError

from tradesaga.consumers.runtime.batch_context import BatchContext
from tradesaga.consumers.runtime.dispatch import apply_transition
from tradesaga.consumers.runtime.event_factory import Trigger, pack_message, tidy
from tradesaga.consumers.runtime.message import Message, UnknownVersionError
from tradesaga.consumers.runtime.step_rows import Key
from tradesaga.consumers.saga_log.store import PARK, RELEASE, milliseconds
from tradesaga.consumers.saga_log.tracked_saga import Parked
from tradesaga.infra.clock import read_id
from tradesaga.infra.kafka.codec import Record, dump_headers, load_headers
from tradesaga.infra.kafka.dead_letters import CONTRADICTION, RecordFault
from tradesaga.infra.kafka.dead_letters import dead_letter as make_dead_letter
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.processor import Received
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.registry.sagas import UNKNOWN_VERSION
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.decide import Action, StepMessage, decide, give_up
from tradesaga.sagas.step_state import NO_ROW, RowStatus
from tradesaga.schemas.envelope import SAGA_ID
from tradesaga.schemas.invalid import describe_invalid

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


PARKED_PAGE: Final = 200
"""Parked records that one batch processes."""

PARK_ONCE: Final = f"{PARK.rstrip()} ON CONFLICT DO NOTHING"

FIND_PARKED: Final = """
SELECT topic, partition, "offset", saga_id, recorded_at, headers, value FROM parked
WHERE "group" = $1 AND released IS NULL AND starts_with(reason, $2)
    AND substring(reason FROM 'version ([0-9]+)') = ANY($3::text[])
    AND (topic, partition) IN (SELECT * FROM unnest($4::text[], $5::int[]))
ORDER BY recorded_at, topic, partition, "offset" LIMIT $6
"""


async def find_parked(
    sql: Connection, group: str, versions: Collection[int], lanes: Collection[Lane]
) -> list[Received]:
    """Return the oldest parked records of these lanes whose version is registered now, in order."""
    topics, partitions = [lane.topic for lane in lanes], [lane.partition for lane in lanes]
    known = [str(version) for version in versions]
    rows = await sql.fetch(FIND_PARKED, group, UNKNOWN_VERSION, known, topics, partitions, PARKED_PAGE)
    places = {(lane.topic, lane.partition): lane.id for lane in lanes}
    found: list[Received] = []
    for row in rows:
        topic, partition, offset, saga_id, at, headers, value = row
        key = str(saga_id).encode()
        record = Record(topic, partition, offset, milliseconds(at), key, value or b"", load_headers(headers))
        found.append(Received(places[topic, partition], record))
    return found


async def park(sql: Connection, group: str, parked: Sequence[Parked]) -> None:
    """Park records, each with the reason; those that are parked already stay as they are."""
    rows = [
        (record.topic, record.partition, record.offset, read_id(record.header(SAGA_ID).decode()), reason,
         record.recorded_at, dump_headers(record.headers), record.value)
        for record, reason in parked
    ]  # fmt: skip
    if rows:
        await sql.execute(PARK_ONCE, group, *zip(*rows, strict=True))


async def release_parked(sql: Connection, group: str, records: Sequence[Record], at: datetime) -> None:
    """Mark parked records as released."""
    rows = [(record.topic, record.partition, record.offset, "retry", at) for record in records]
    if rows:
        await sql.execute(RELEASE, group, *zip(*rows, strict=True))
