"""What a participant says: facts on the events topic, and copies of what it could not read on the dead letters."""

from uuid import UUID

from consumers.runtime.cause import Cause
from consumers.runtime.row import Row
from infra.clock import Clock, format_time, new_id
from infra.codec import Outgoing, Record
from infra.tracing import next_traceparent
from schemas.envelope import CONTEXT_LIMIT, ContextTooLargeError, Envelope, splice
from schemas.message import Event, wire_type
from schemas.topics import dead_letters_topic, events_topic

VALUE_LIMIT = 256 * 1024
"""Bytes of one payload; with the context and headers it stays well below the topic's `max.message.bytes`."""


class Speaker:
    """Makes the records of one participant."""

    def __init__(self, saga: str, participant: str, clock: Clock) -> None:
        self._saga = saga
        self._source = f"/{saga}/{participant}"
        self.topic = events_topic(saga)
        self._dead_letters = dead_letters_topic(saga)
        self._clock = clock

    def say(self, row: Row, cause: Cause | None, event: Event, value: bytes, *, back: bool = False) -> Outgoing:
        """Make the fact `event` about `row`; the context is the cause's, unchanged."""
        return self._make(row, cause, event, value, cause.envelope.context if cause else b"", back=back)

    def say_done(self, row: Row, cause: Cause, event: Event, value: bytes) -> Outgoing:
        """Make the fact that a step has succeeded, which the saga's context takes in."""
        # What fits was checked before the effect; an effect that happened is told in any case.
        context = splice(cause.envelope.context, event.NAME, value, limit=4 * (CONTEXT_LIMIT + VALUE_LIMIT))
        return self._make(row, cause, event, value, context, back=False)

    def _make(
        self, row: Row, cause: Cause | None, event: Event, value: bytes, context: bytes, *, back: bool
    ) -> Outgoing:
        said = cause.envelope if cause is not None else None
        envelope = Envelope(
            type=wire_type(self._saga, type(event)),
            id=str(new_id()),
            source=self._source,
            saga_id=str(row.saga_id),
            time=format_time(self._clock.now()),
            causation=said.id if said else "",
            traceparent=next_traceparent(said.traceparent) if said else "",
            tracestate=said.tracestate if said else "",
            step=row.step,
            request=said.request if said else "",
            round=row.back_round if back else row.round,
            attempt=row.back_attempt if back else row.attempt,
            started=row.started,
            context=context,
        )
        return Outgoing.of(self.topic, envelope, value)

    def bury(self, record: Record, group: str, reason: str) -> Outgoing:
        """Copy an unreadable record, byte for byte, to the dead letters, with where it came from and why."""
        place = {
            "ts_dlt_topic": record.topic,
            "ts_dlt_partition": str(record.partition),
            "ts_dlt_offset": str(record.offset),
            "ts_dlt_timestamp": str(record.recorded_ms),
            "ts_dlt_group": group,
            "ts_dlt_error_message": reason[:1000],
        }
        headers = [(name, value or b"") for name, value in record.headers]
        headers += [(name, value.encode()) for name, value in place.items()]
        key = (record.key or b"").decode("utf-8", "replace")
        ce_id: UUID = new_id()
        return Outgoing(self._dead_letters, key, ce_id, "dead-letter", headers, record.value)


def check_size(context: bytes, event: Event, value: bytes) -> None:
    """Refuse an answer that would not fit, while its effect can still be rolled back; raises `ContextTooLargeError`."""
    if len(value) > VALUE_LIMIT:
        raise ContextTooLargeError(f"{event.NAME} of {len(value)} bytes passes the limit of {VALUE_LIMIT}")
    splice(context, event.NAME, value)
