"""Accepts starts from any producer: a repeated request is the same saga, another request under its key is rejected."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from pydantic import ValidationError

from tradesaga.infra.clock import format_time, new_id
from tradesaga.infra.kafka.codec import Outgoing, unpack
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.starts.strict_json import StrictJsonError, check_json
from tradesaga.infra.telemetry.tracing import new_traceparent
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.errors import DefinitionError
from tradesaga.schemas import identity
from tradesaga.schemas.envelope import Envelope, splice
from tradesaga.schemas.identity import RequestKeys, same_request
from tradesaga.schemas.invalid import describe_invalid
from tradesaga.schemas.messages.lifecycle import StartRefused
from tradesaga.schemas.messages.message import Event, NotFiniteError, wire_type
from tradesaga.schemas.topics import events_topic

SIZE_LIMIT: Final = 64 * 1024
"""Bytes of a start's payload."""

_INSERT: Final = """
INSERT INTO start_request (saga_id, saga, request_hash, record)
SELECT saga_id, $2, request_hash, record
FROM unnest($1::uuid[], $3::text[], $4::bytea[]) AS t (saga_id, request_hash, record) ORDER BY saga_id
ON CONFLICT (saga_id) DO NOTHING RETURNING saga_id
"""
_READ: Final = "SELECT saga_id, request_hash, record FROM start_request WHERE saga_id = ANY($1::uuid[])"


class StartInvalidError(ValueError):
    """An invalid request; `kind` is a metric label, the message names fields and never their values."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class NotStartableError(DefinitionError, TypeError):
    """A saga that cannot be started by a request."""


@dataclass(frozen=True, slots=True)
class Start:
    """A valid request with its metadata; `causation` is the id of the client's own event."""

    request: Event
    saga_id: UUID
    key: str
    causation: str = ""
    traceparent: str = ""
    tracestate: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A new saga; `record` is its start on the events topic."""

    saga_id: UUID
    record: Outgoing


@dataclass(frozen=True, slots=True)
class Same:
    """The same request has started the saga before; `record` is the stored one, safe to publish again."""

    saga_id: UUID
    record: Outgoing


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another request has used the key; `record` is the `StartRefused` for the events topic."""

    saga_id: UUID
    record: Outgoing


StartResult = Accepted | Same | Conflict


def check_startable(saga: AnySaga) -> None:
    """Raise `NotStartableError` for a saga whose start lacks `idempotency_key` or `account`, which form its id."""
    missing = {"idempotency_key", "account"} - saga.start.model_fields.keys()
    if missing:
        raise NotStartableError(
            f"{saga.start.__qualname__} starts {saga.name!r} and so needs the fields {sorted(missing)}"
        )


def read_start(saga: AnySaga, value: bytes, limit: int = SIZE_LIMIT) -> Event:
    """Parse and validate a payload; unknown fields are errors. Raises `StartInvalidError`."""
    if len(value) > limit:
        raise StartInvalidError("too-large", f"the request has {len(value)} bytes; {limit} are allowed")
    try:
        check_json(value)
        start = saga.start.model_validate_json(value)
        start.to_wire()
    except StrictJsonError as error:
        raise StartInvalidError("not-json", f"the request is not acceptable JSON: {error}") from None
    except ValidationError as error:
        raise StartInvalidError("invalid", describe_invalid(error, "request")) from None
    except NotFiniteError as error:  # 1e999 is valid JSON, but not finite
        raise StartInvalidError("invalid", str(error)) from None
    return start


def make_start(
    saga: AnySaga, request: Event, *, causation: str = "", traceparent: str = "", tracestate: str = ""
) -> Start:
    """Make a start with its saga id from a valid request; without a trace it begins an unsampled one."""
    key, account = str(getattr(request, "idempotency_key", "")), str(getattr(request, "account", ""))
    saga_id = identity.saga_id(saga.name, account, key)
    trace = traceparent or new_traceparent()
    return Start(request, saga_id, key, causation, trace, tracestate)


async def accept(
    sql: Connection, saga: AnySaga, starts: Sequence[Start], *, keys: RequestKeys, source: str, now: int
) -> list[StartResult]:
    """Store starts with two statements in the caller's transaction; the caller publishes the records.

    Waits for other transactions that hold one of the keys. `now` is nanoseconds since 1970.
    """
    hashed = [(start, keys.hash(start.request)) for start in starts]
    records = {start.saga_id: (hash_, _begin(saga, start, hash_, source, now)) for start, hash_ in reversed(hashed)}
    rows = sorted((saga_id, hash_, record.packed) for saga_id, (hash_, record) in records.items())
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    inserted = await sql.fetch(_INSERT, columns[0], saga.name, columns[1], columns[2])
    new = {row["saga_id"] for row in inserted}
    if len(new) < len(records):
        for row in await sql.fetch(_READ, [saga_id for saga_id in records if saga_id not in new]):
            stored = Outgoing.of_stored(events_topic(saga.name), *unpack(row["record"]))
            records[row["saga_id"]] = (row["request_hash"], stored)
    verdicts: list[StartResult] = []
    for start, hash_ in hashed:
        stored_hash, record = records[start.saga_id]
        if hash_ != stored_hash and not _repeats(start, keys, stored_hash, record):
            verdicts.append(Conflict(start.saga_id, _refuse(saga, start, hash_, source, now)))
        elif start.saga_id in new:
            new.discard(start.saga_id)
            verdicts.append(Accepted(start.saga_id, record))
        else:
            verdicts.append(Same(start.saga_id, record))
    return verdicts


def _repeats(start: Start, keys: RequestKeys, stored_hash: str, stored: Outgoing) -> bool:
    """Return whether a start repeats the stored one although its hash differs: by another key, or unkeyed."""
    same = keys.matches(stored_hash, start.request)
    if same is not None:
        return same
    # The hash's key is unknown here, so the stored request itself is compared.
    return same_request(stored.value, start.request)


def _begin(saga: AnySaga, start: Start, hash_: str, source: str, now: int) -> Outgoing:
    value = start.request.to_wire()
    context = splice(b"", saga.start.NAME, value)
    envelope = _envelope(wire_type(saga.name, saga.start), start, hash_, source=source, now=now, context=context)
    envelope = envelope._replace(version=saga.version)
    return Outgoing.of(events_topic(saga.name), envelope, value)


def _refuse(saga: AnySaga, start: Start, hash_: str, source: str, now: int) -> Outgoing:
    reason = "another request has started a saga under this key"
    refused = StartRefused(idempotency_key=start.key, request_hash=hash_, reason=reason)
    envelope = _envelope(wire_type(saga.name, StartRefused), start, hash_, source=source, now=now, context=b"")
    return Outgoing.of(events_topic(saga.name), envelope, refused.to_wire())


def _envelope(ce_type: str, start: Start, hash_: str, *, source: str, now: int, context: bytes) -> Envelope:
    return Envelope(
        type=ce_type,
        id=str(new_id()),
        source=source,
        saga_id=str(start.saga_id),
        time=format_time(now),
        causation=start.causation,
        traceparent=start.traceparent,
        tracestate=start.tracestate,
        request=hash_,
        context=context,
    )
