"""The front door on Kafka: what anybody puts on `<saga>.starts` becomes a saga, a refusal, or a dead letter."""

import asyncio
import base64
import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import structlog

from tradesaga.infra.audit_log.seals import read_trust
from tradesaga.infra.clock import Clock, SystemClock
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.dead_letters import READING_ERRORS, UNREADABLE, RecordFault, dead_letter
from tradesaga.infra.kafka.topics import preflight
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.processor import Pace, Received, Transaction
from tradesaga.infra.outbox.worker import make_worker
from tradesaga.infra.postgres.database import Connection, open_pool
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.infra.starts.accept import (
    SIZE_LIMIT,
    Accepted,
    Conflict,
    Start,
    StartInvalidError,
    StartResult,
    accept,
    check_startable,
    make_start,
    read_start,
)
from tradesaga.infra.starts.backpressure import Backpressure, make_backpressure
from tradesaga.infra.starts.request_keys import read_request_keys
from tradesaga.infra.starts.strict_json import StrictJsonError, check_json
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.tracing import next_traceparent
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.envelope import ID, SPEC, SPECVERSION, TYPE, Header, foreign_specversion
from tradesaga.schemas.identity import RequestKeys
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.topics import dead_letters_topic, events_topic, starts_topic

_STRUCTURED: Final = "application/cloudevents+json"
_BATCHED: Final = "application/cloudevents-batch"
_ID_LIMIT: Final = 200


@dataclass(frozen=True, slots=True)
class _Asked:
    """A start as it was sent: its payload, and what its CloudEvent attributes say of it."""

    value: bytes
    type: str = ""
    id: str = ""
    traceparent: str = ""
    tracestate: str = ""


class Intake:
    """Takes starts of one saga: CloudEvents in binary or structured mode, or a bare JSON payload."""

    def __init__(
        self, saga: AnySaga, keys: RequestKeys, clock: Clock | None = None, backpressure: Backpressure | None = None
    ) -> None:
        check_startable(saga)
        self._keys = keys
        self._backpressure = backpressure
        self.group = f"{saga.name}-intake"
        self.topics: Sequence[str] = (starts_topic(saga.name),)
        self._saga = saga
        self._type = wire_type(saga.name, saga.start)
        self._clock = clock or SystemClock()
        self._counts: Counter[str] = Counter()
        self._dead: Counter[str] = Counter()

    def wants(self, topic: str, headers: Sequence[Header]) -> bool:  # noqa: ARG002 - all are answered
        """Accept every record of the topic."""
        return True

    async def open(self, sql: Connection, lanes: Sequence[Lane], wake: Callable[[], None]) -> None:
        """Nothing is remembered between batches."""

    def due_in(self) -> float | None:
        """Return None: starts come as records alone."""
        return None

    async def apply(self, transaction: Transaction, received: Sequence[Received]) -> None:
        """Judge the starts, in two statements, and publish what they come to."""
        self._counts, self._dead = Counter(), Counter()
        now = self._clock.now()
        valid: list[tuple[int, Start]] = []
        pace = Pace()
        for each in received:
            if pace.is_due():
                await pace.turn()
            start = self._try(each.record)
            if isinstance(start, Start):
                valid.append((each.lane, start))
                continue
            transaction.emit(each.lane, dead_letter(self._saga.name, self.group, each.record, start, now))
            self._dead[start.kind] += 1
        if not valid:
            return
        source = f"/{self._saga.name}/intake"
        starts = [start for _, start in valid]
        verdicts = await accept(transaction.sql, self._saga, starts, keys=self._keys, source=source, now=now)
        for (lane, _), verdict in zip(valid, verdicts, strict=True):
            transaction.emit(lane, verdict.record)
            self._counts[_name(verdict)] += 1

    def committed(self) -> None:
        """Count what was committed."""
        for result, count in self._counts.items():
            metrics.STARTS.labels(self._saga.name, result).inc(count)
        for kind, count in self._dead.items():
            metrics.STARTS.labels(self._saga.name, "invalid").inc(count)
            metrics.DEAD_LETTERS.labels(self.group, kind).inc(count)
        self._counts, self._dead = Counter(), Counter()

    def full(self) -> bool:
        """Return whether the saga log is so far behind, or so much under way, that starts had better wait."""
        return self._backpressure is not None and self._backpressure.holds_back

    async def close(self) -> None:
        """Nothing runs on the side."""

    def _try(self, record: Record) -> Start | RecordFault:
        """Read a start. A fault of ours in reading costs this record, and holds up nobody behind it."""
        try:
            return self.read(record)
        except StartInvalidError as error:
            return RecordFault(error.kind, str(error), "intake")
        except READING_ERRORS as error:
            place = f"{record.topic}[{record.partition}]@{record.offset}"
            structlog.get_logger("intake").exception("record cannot be read", place=place, exc_info=error)
            return RecordFault(UNREADABLE, f"the record cannot be read: {type(error).__name__}", "intake")

    def read(self, record: Record) -> Start:
        """Return the start that a record asks for; raises `StartInvalidError`."""
        asked = _unwrap(record)
        if asked.type and asked.type != self._type:
            raise StartInvalidError("wrong-type", f"the type is {asked.type[:100]!r}; this door takes {self._type!r}")
        request = read_start(self._saga, asked.value)
        trace = next_traceparent(asked.traceparent)
        state = asked.tracestate[:512] if trace else ""
        return make_start(self._saga, request, causation=asked.id[:_ID_LIMIT], traceparent=trace, tracestate=state)


def _unwrap(record: Record) -> _Asked:
    """Extract a start from its CloudEvent; without any attributes the value is the payload itself."""
    kind = _text(record, "content-type").split(";")[0].strip().lower()
    if kind.startswith(_BATCHED):
        raise StartInvalidError("batched", "one record is one start; send the events of a batch one by one")
    if kind == _STRUCTURED:
        return _open_structured(record)
    if (version := record.header(SPECVERSION)) not in {b"", SPEC}:
        raise StartInvalidError("specversion", foreign_specversion(version))
    parent, state = _text(record, "traceparent"), _text(record, "tracestate")
    return _Asked(record.value, _text(record, TYPE), _text(record, ID), parent, state)


def _open_structured(record: Record) -> _Asked:
    if len(record.value) > 2 * SIZE_LIMIT:
        raise StartInvalidError("too-large", f"the event has {len(record.value)} bytes; {2 * SIZE_LIMIT} are allowed")
    try:
        event = check_json(record.value)
    except StrictJsonError as error:
        raise StartInvalidError("not-json", f"the event is not JSON that we take: {error}") from None
    if not isinstance(event, dict):
        raise StartInvalidError("not-an-event", "the value is no JSON object, so it is no CloudEvent")
    found = cast("dict[str, Any]", event)
    missing = [name for name in ("specversion", "id", "source", "type") if not isinstance(found.get(name), str)]
    if missing:
        raise StartInvalidError("not-an-event", f"the CloudEvent lacks {', '.join(missing)}")
    if found["specversion"] != SPEC.decode():
        raise StartInvalidError("specversion", foreign_specversion(_header_text(found["specversion"]).encode()))
    parent = str(found.get("traceparent") or _text(record, "traceparent"))
    state = str(found.get("tracestate") or _text(record, "tracestate"))
    return _Asked(_data(found), _header_text(found["type"]), _header_text(found["id"]), parent, _header_text(state))


def _data(event: dict[str, Any]) -> bytes:
    """Return the payload of a structured event. Amounts are strings there, so no number is harmed on the way."""
    if "data_base64" in event:
        try:
            return base64.b64decode(str(event["data_base64"]), validate=True)
        except ValueError as error:  # `binascii.Error` is one; characters that are not ASCII raise another
            raise StartInvalidError("not-json", f"data_base64 is not base64: {error}") from None
    if "data" not in event:
        raise StartInvalidError("not-an-event", "the CloudEvent has no data")
    return json.dumps(event["data"]).encode()


def _text(record: Record, header: str) -> str:
    return record.header(header).decode("utf-8", "replace").replace("\0", "")


def _header_text(text: str) -> str:
    """Return what a header can hold of a text: JSON can also spell half a surrogate pair, and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def _name(verdict: StartResult) -> str:
    match verdict:
        case Accepted():
            return "accepted"
        case Conflict():
            return "conflict"
        case _:
            return "same"


def _has_front_door(saga: AnySaga) -> bool:
    try:
        check_startable(saga)
    except TypeError as error:
        structlog.get_logger("intake").warning("saga cannot be started from outside", why=str(error))
        return False
    return True


async def serve(settings: Settings) -> None:
    """Accept starts of every registered saga that can be started from outside, until cancelled.

    Raises `CommandError` when a server or the keys of request hashes are not there at the start, or a
    topic is refused.
    """
    keys, trust = read_request_keys(settings.request_keys_file()), read_trust(settings)
    sagas = [saga for saga in registered_sagas(settings.app).values() if _has_front_door(saga)]
    used = (starts_topic, events_topic, dead_letters_topic)
    await preflight(settings, [topic(saga.name) for saga in sagas for topic in used])
    url = settings.database_for(SAGA_LOG)
    pool = await open_pool(url, max_size=len(sagas) + 1, application_name="tradesaga intake")
    async with pool, asyncio.TaskGroup() as group:
        for saga in sagas:
            backpressure = make_backpressure(settings, saga.name, pool)
            group.create_task(backpressure.watch(), name=f"backpressure {saga.name}")
            processor = Intake(saga, keys, backpressure=backpressure)
            owner = f"{processor.group}@{socket.gethostname()}:{os.getpid()}"
            worker = make_worker(processor, pool, settings, owner, service=SAGA_LOG, trust=trust)
            group.create_task(worker.run(), name=processor.group)
