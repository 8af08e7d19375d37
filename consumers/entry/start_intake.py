"""The intake: each record of `<saga>.starts` becomes a saga, a refusal, or a dead letter."""

import asyncio
import base64
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import structlog

from tradesaga.consumers.entry.processor import EntryProcessor, header_text, make_traced_start, read_or_fault
from tradesaga.infra.audit_log.seals import read_trust
from tradesaga.infra.clock import Clock
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.topics import preflight
from tradesaga.infra.outbox.processor import Received, Transaction
from tradesaga.infra.outbox.worker import make_worker
from tradesaga.infra.postgres.database import open_pool
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.infra.starts.accept import (
    SIZE_LIMIT,
    Start,
    StartInvalidError,
    check_startable,
    read_start,
)
from tradesaga.infra.starts.backpressure import Backpressure, make_backpressure
from tradesaga.infra.starts.request_keys import read_request_keys
from tradesaga.infra.starts.strict_json import StrictJsonError, check_json
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.envelope import ID, SPEC, SPECVERSION, TYPE, foreign_specversion
from tradesaga.schemas.identity import RequestKeys
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.topics import dead_letters_topic, events_topic, starts_topic

_STRUCTURED: Final = "application/cloudevents+json"
_BATCHED: Final = "application/cloudevents-batch"


@dataclass(frozen=True, slots=True)
class _StartRecord:
    """A start as it was sent: its payload and its CloudEvent attributes."""

    value: bytes
    type: str = ""
    id: str = ""
    traceparent: str = ""
    tracestate: str = ""


class Intake(EntryProcessor):
    """Accepts starts of one saga: CloudEvents in binary or structured mode, or bare JSON payloads."""

    def __init__(
        self, saga: AnySaga, keys: RequestKeys, clock: Clock | None = None, backpressure: Backpressure | None = None
    ) -> None:
        super().__init__(saga, "intake", starts_topic(saga.name), keys, clock=clock, backpressure=backpressure)
        self._type = wire_type(saga.name, saga.start)

    async def apply(self, transaction: Transaction, received: Sequence[Received]) -> None:
        """Accept the starts with two statements, and publish the results."""
        self._forget()
        now = self._clock.now()
        read = partial(read_or_fault, read=self.read, handler="intake")
        starts = await self._read_all(transaction, received, read, now)
        self._starts.update("invalid" for _ in self._dead.elements())
        results = await self._accept(transaction, [start for _, start in starts], now)
        for (each, _), result in zip(starts, results, strict=True):
            transaction.emit(each.lane, result.record)

    def read(self, record: Record) -> Start:
        """Return the start in a record. Raises `StartInvalidError`."""
        found = _unwrap(record)
        if found.type and found.type != self._type:
            raise StartInvalidError("wrong-type", f"the type is {found.type[:100]!r}; this topic takes {self._type!r}")
        request = read_start(self._saga, found.value)
        return make_traced_start(self._saga, request, found.id, found.traceparent, found.tracestate)


def _unwrap(record: Record) -> _StartRecord:
    """Extract a start from its CloudEvent; without any attributes the value is the payload itself."""
    kind = header_text(record, "content-type").split(";")[0].strip().lower()
    if kind.startswith(_BATCHED):
        raise StartInvalidError("batched", "a record contains one start; send the events of a batch one by one")
    if kind == _STRUCTURED:
        return _open_structured(record)
    if (version := record.header(SPECVERSION)) not in {b"", SPEC}:
        raise StartInvalidError("specversion", foreign_specversion(version))
    parent, state = header_text(record, "traceparent"), header_text(record, "tracestate")
    return _StartRecord(record.value, header_text(record, TYPE), header_text(record, ID), parent, state)


def _open_structured(record: Record) -> _StartRecord:
    if len(record.value) > 2 * SIZE_LIMIT:
        raise StartInvalidError("too-large", f"the event has {len(record.value)} bytes; {2 * SIZE_LIMIT} are allowed")
    try:
        event = check_json(record.value)
    except StrictJsonError as error:
        raise StartInvalidError("not-json", f"the event is not valid JSON: {error}") from None
    if not isinstance(event, dict):
        raise StartInvalidError("not-an-event", "the value is not a JSON object, and so not a CloudEvent")
    found = cast("dict[str, Any]", event)
    missing = [name for name in ("specversion", "id", "source", "type") if not isinstance(found.get(name), str)]
    if missing:
        raise StartInvalidError("not-an-event", f"the CloudEvent lacks {', '.join(missing)}")
    if found["specversion"] != SPEC.decode():
        raise StartInvalidError("specversion", foreign_specversion(_printable(found["specversion"]).encode()))
    parent = str(found.get("traceparent") or header_text(record, "traceparent"))
    state = str(found.get("tracestate") or header_text(record, "tracestate"))
    return _StartRecord(_data(found), _printable(found["type"]), _printable(found["id"]), parent, _printable(state))


def _data(event: dict[str, Any]) -> bytes:
    """Return the payload of a structured event. Amounts are strings, so that decoding cannot change them."""
    if "data_base64" in event:
        try:
            return base64.b64decode(str(event["data_base64"]), validate=True)
        except ValueError as error:  # `binascii.Error` is one; non-ASCII characters raise another
            raise StartInvalidError("not-json", f"data_base64 is not base64: {error}") from None
    if "data" not in event:
        raise StartInvalidError("not-an-event", "the CloudEvent has no data")
    return json.dumps(event["data"]).encode()


def _printable(text: str) -> str:
    """Return a text without what a header cannot hold: half a surrogate pair, which JSON allows, and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def _is_startable(saga: AnySaga) -> bool:
    try:
        check_startable(saga)
    except TypeError as error:
        structlog.get_logger("intake").warning("saga cannot be started from outside", why=str(error))
        return False
    return True


async def serve(settings: Settings) -> None:
    """Accept starts of every registered saga that can be started from outside, until cancelled.

    Raises `CommandError` if a server is unavailable or the keys of request hashes are missing at the start, or if a
    topic is refused.
    """
    keys, trust = read_request_keys(settings.request_keys_file()), read_trust(settings)
    sagas = [saga for saga in registered_sagas(settings.app).values() if _is_startable(saga)]
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
