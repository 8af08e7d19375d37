"""The base of the two processors that start sagas: the intake of starts, and the router of signals."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeVar

import structlog

from tradesaga.infra.clock import Clock, SystemClock
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.dead_letters import READING_ERRORS, UNREADABLE, RecordFault, dead_letter
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.processor import Pace, Received, Transaction
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.starts.accept import (
    Accepted,
    Conflict,
    Same,
    Start,
    StartInvalidError,
    StartResult,
    accept,
    check_startable,
    make_start,
)
from tradesaga.infra.starts.backpressure import Backpressure
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.tracing import next_traceparent
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.envelope import Header
from tradesaga.schemas.identity import RequestKeys
from tradesaga.schemas.messages.message import Event

T = TypeVar("T")
_ID_LIMIT: Final = 200
_STATE_LIMIT: Final = 512
_RESULTS: Final = {Accepted: "accepted", Same: "same", Conflict: "conflict"}


class EntryProcessor:
    """Reads records of one topic and starts sagas; unreadable records go to the dead letters."""

    def __init__(
        self,
        saga: AnySaga,
        name: str,
        topic: str,
        keys: RequestKeys,
        *,
        clock: Clock | None,
        backpressure: Backpressure | None,
    ) -> None:
        check_startable(saga)
        self.group = f"{saga.name}-{name}"
        self.topics: Sequence[str] = (topic,)
        self._saga = saga
        self._keys = keys
        self._source = f"/{saga.name}/{name}"
        self._clock = clock or SystemClock()
        self._backpressure = backpressure
        self._forget()

    def _forget(self) -> None:
        self._starts: Counter[str] = Counter()
        self._dead: Counter[str] = Counter()

    def wants(self, topic: str, headers: Sequence[Header]) -> bool:  # noqa: ARG002 - all are answered
        """Accept every record of the topic."""
        return True

    async def open(self, sql: Connection, lanes: Sequence[Lane], wake: Callable[[], None]) -> None:
        """Do nothing: no state is kept between batches."""

    def due_in(self) -> float | None:
        """Return None: there are no timers."""
        return None

    def other_lanes(self) -> Collection[int]:
        """Return nothing: a batch writes to the lanes of its records alone."""
        return ()

    def committed(self) -> None:
        """Count what was committed."""
        for result, count in self._starts.items():
            metrics.STARTS.labels(self._saga.name, result).inc(count)
        for kind, count in self._dead.items():
            metrics.DEAD_LETTERS.labels(self.group, kind).inc(count)
        self._forget()

    def full(self) -> bool:
        """Return whether records should wait on their topic, because the saga log is too far behind."""
        return self._backpressure is not None and self._backpressure.holds_back

    async def close(self) -> None:
        """Do nothing: there are no background tasks."""

    async def _read_all(
        self,
        transaction: Transaction,
        received: Sequence[Received],
        read: Callable[[Record], T | RecordFault],
        now: int,
    ) -> list[tuple[Received, T]]:
        """Read records in their order; publish a dead letter for each unreadable one."""
        found: list[tuple[Received, T]] = []
        pace = Pace()
        for each in received:
            if pace.is_due():
                await pace.turn()
            value = read(each.record)
            if isinstance(value, RecordFault):
                transaction.emit(each.lane, dead_letter(self._saga.name, self.group, each.record, value, now))
                self._dead[value.kind] += 1
            else:
                found.append((each, value))
        return found

    async def _accept(self, transaction: Transaction, starts: Sequence[Start], now: int) -> list[StartResult]:
        """Store starts with two statements; the caller publishes their records."""
        if not starts:
            return []
        results = await accept(transaction.sql, self._saga, starts, keys=self._keys, source=self._source, now=now)
        self._starts.update(_RESULTS[type(result)] for result in results)
        return results


def read_or_fault(record: Record, read: Callable[[Record], T], handler: str) -> T | RecordFault:
    """Return what `read` returns, or what is wrong with the record.

    A bug in reading costs this record only, and does not stop the records after it.
    """
    try:
        return read(record)
    except StartInvalidError as error:
        return RecordFault(error.kind, str(error), handler)
    except READING_ERRORS as error:
        place = f"{record.topic}[{record.partition}]@{record.offset}"
        structlog.get_logger(handler).exception("record cannot be read", place=place, exc_info=error)
        return RecordFault(UNREADABLE, f"the record cannot be read: {type(error).__name__}", handler)


def header_text(record: Record, header: str) -> str:
    """Return a header as text that PostgreSQL and Kafka accept."""
    return record.header(header).decode("utf-8", "replace").replace("\0", "")


def make_traced_start(saga: AnySaga, request: Event, causation: str, traceparent: str, tracestate: str) -> Start:
    """Return the start of a saga that names its cause and continues the trace of its record."""
    trace = next_traceparent(traceparent)
    state = tracestate[:_STATE_LIMIT] if trace else ""
    return make_start(saga, request, causation=causation[:_ID_LIMIT], traceparent=trace, tracestate=state)
