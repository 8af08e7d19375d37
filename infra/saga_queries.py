"""Queries on sagas for commands and HTTP: one saga with its events, or a page of many; progress as stored."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, cast
from uuid import UUID

import asyncpg
import orjson

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.codec import load_headers, publishable
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.machine import Machine, State
from tradesaga.sagas.status import Status
from tradesaga.schemas.envelope import CONTEXT

_FIELDS: Final = State._fields
_CACHED_BYTES: Final = 4096
"""Maximum bytes of progress that is cached."""
_CACHED_NAMES: Final = 16
"""Maximum number of contradictions and decisions in a cached state."""


class ProgressError(ValueError):
    """Stored progress does not fit the definition: it was written under another one, or it is damaged."""


def encode_progress(machine: Machine, state: State) -> bytes:
    """Write what differs from `machine.begin()`."""
    few = len(state.contradictions) + len(state.decisions) <= _CACHED_NAMES
    return _encode_cached(machine, state) if few else _encode(machine, state)


def _encode(machine: Machine, state: State) -> bytes:
    begun = machine.begin()
    differing = {name: now for name, now, first in zip(_FIELDS, state, begun, strict=True) if now != first}
    return orjson.dumps(differing, default=sorted)  # JSON has no sets


def decode_progress(machine: Machine, progress: bytes) -> State:
    """Read what `encode_progress` wrote for the same definition. Raises `ProgressError`."""
    return (_decode_cached if len(progress) <= _CACHED_BYTES else _decode)(machine, progress)


def _decode(machine: Machine, progress: bytes) -> State:
    begun = machine.begin()
    try:
        stored: dict[str, Any] = orjson.loads(progress)
        state = State(**{name: _typed(stored.get(name), getattr(begun, name)) for name in _FIELDS})
    except (ValueError, TypeError, AttributeError) as error:
        raise ProgressError(f"progress cannot be read: {error}") from None
    if unknown := stored.keys() - set(_FIELDS):
        raise ProgressError(f"progress has {sorted(unknown)}, which this version does not know")
    return state


_encode_cached: Final = lru_cache(maxsize=1024)(_encode)

_decode_cached: Final = lru_cache(maxsize=1024)(_decode)


def _typed(stored: Any, begun: Any) -> Any:
    """Convert a stored value to the type of its field; `begun` is the field's value in a new saga."""
    if stored is None:
        return begun
    if isinstance(begun, tuple):
        steps = len(cast("tuple[int, ...]", begun))
        if len(stored) != steps:
            raise ProgressError(f"progress has {len(stored)} steps; the definition has {steps}")
        return tuple(stored)
    if isinstance(begun, frozenset):
        return frozenset(stored)
    return Status(stored) if begun is None else type(begun)(stored)


Json = dict[str, Any]

Starts = Mapping[tuple[str, int], str]

PAGE: Final = 500
_SHOWN_MATCHES: Final = 3
_SHORTEST: Final = 6
_DIGITS: Final = 32

QUERYABLE_CONTEXT: Final = r"replace(saga.context::text, '\u0000', '\ufffd')::json"
"""The context as SQL can query it: JSON can escape a NUL, which PostgreSQL's text type cannot hold."""

_COLUMNS: Final = (
    "saga_id", "name", "version", "state", "current_step_index", "completed_steps", "compensated_steps", "context",
    "deadline", "request_hash", "created_at", "updated_at",
)  # fmt: skip
_JSON_COLUMNS: Final = frozenset({"completed_steps", "compensated_steps", "context"})
_SELECTED: Final = ", ".join(_COLUMNS)

_ONE: Final = f"SELECT {_SELECTED}, progress, seq FROM saga WHERE saga_id = $1"

_BETWEEN: Final = "SELECT saga_id FROM saga WHERE saga_id BETWEEN $1 AND $2 ORDER BY saga_id LIMIT $3"

_EVENTS: Final = """
SELECT seq, topic, partition, "offset", recorded_at, event_type, step_name, event_time, started, context_added, error,
    headers, value, hash
FROM saga_event WHERE saga_id = $1 ORDER BY recorded_at, topic, partition, "offset"
"""

# `starts` has, by the saga's name and version, the event whose member of the context is the request; sagas of a version
# that is not registered are listed too, unless the filter concerns the request.
_PAGE: Final = f"""
WITH starts AS (SELECT * FROM unnest($1::text[], $9::int[], $2::text[]) AS t (name, version, start))
SELECT {_SELECTED} FROM saga LEFT JOIN starts USING (name, version)
WHERE name = ANY($1::text[]) AND ($3::text IS NULL OR state = $3)
    AND ($4::text IS NULL OR {QUERYABLE_CONTEXT} -> start ->> 'account' = $4)
    AND ($5::text IS NULL OR {QUERYABLE_CONTEXT} -> start ->> 'symbol' = $5)
    AND ($6::timestamptz IS NULL OR created_at >= $6)
    AND ($7::uuid IS NULL OR (created_at, saga_id) < (SELECT created_at, saga_id FROM saga WHERE saga_id = $7))
ORDER BY created_at DESC, saga_id DESC LIMIT $8
"""


@dataclass(frozen=True, slots=True)
class SagaFilter:
    """Which sagas: None matches any; `after` is the last saga of the previous page."""

    state: str | None = None
    account: str | None = None
    symbol: str | None = None
    since: datetime | None = None
    after: UUID | None = None


async def find_id(sql: Connection, text: str) -> UUID:
    """Return a saga's id by the id or its beginning. Raises `CommandError`: exit 2, or 3 when there is none."""
    digits = text.replace("-", "").lower()
    if not _SHORTEST <= len(digits) <= _DIGITS or set(digits) - set("0123456789abcdef"):
        do = f"use the id, or at least its first {_SHORTEST} digits"
        raise CommandError("bad-saga-id", f"{text!r} is not a saga id", "SAGA", do, ExitCode.USAGE)
    first, last = UUID(digits.ljust(_DIGITS, "0")), UUID(digits.ljust(_DIGITS, "f"))
    found = [row["saga_id"] for row in await sql.fetch(_BETWEEN, first, last, _SHOWN_MATCHES + 1)]
    if not found:
        raise unknown_saga(text)
    if len(found) > 1:
        some = ", ".join(map(str, found[:_SHOWN_MATCHES]))
        raise CommandError("ambiguous", f"several sagas begin with {text}", some, "give more digits", ExitCode.USAGE)
    return found[0]


def unknown_saga(text: str) -> CommandError:
    """Return the error for an unknown saga (exit 3)."""
    do = "find it with `tradesaga list`; a saga that was just started appears within a moment"
    return CommandError("not-found", f"there is no saga {text}", "database", do, ExitCode.NOT_FOUND)


async def read_row(sql: Connection, saga_id: UUID) -> asyncpg.Record | None:
    """Return a saga's stored row, including its progress."""
    return await sql.fetchrow(_ONE, saga_id)


async def read_saga(sql: Connection, saga_id: UUID) -> Json:
    """Return a saga's columns and, under `events`, its records in order. Raises `CommandError` (exit 3)."""
    row = await read_row(sql, saga_id)
    if row is None:
        raise unknown_saga(str(saga_id))
    return {**row_to_json(row), "events": await read_events(sql, saga_id)}


async def read_events(sql: Connection, saga_id: UUID) -> list[Json]:
    """Return a saga's records in the order of recording."""
    return [_event(row) for row in await sql.fetch(_EVENTS, saga_id)]


def start_events(sagas: Iterable[AnySaga]) -> Starts:
    """Return the name of the start event by the name and version of each saga."""
    return {(each.name, version): each.start.NAME for saga in sagas for version, each in saga.versions.items()}


async def read_page(sql: Connection, starts: Starts, wanted: SagaFilter, limit: int) -> list[Json]:
    """Return sagas, newest first; `starts` is what `start_events` returns for the sagas to search."""
    given = (wanted.state, wanted.account, wanted.symbol, wanted.since, wanted.after)
    names, versions = [name for name, _ in starts], [version for _, version in starts]
    rows = await sql.fetch(_PAGE, names, list(starts.values()), *given, limit, versions)
    return [row_to_json(row) for row in rows]


async def count_states(sql: Connection) -> dict[str, int]:
    """Count the sagas by state."""
    rows = await sql.fetch("SELECT state, count(*) AS sagas FROM saga GROUP BY state ORDER BY state")
    return {row["state"]: row["sagas"] for row in rows}


def row_to_json(row: asyncpg.Record) -> Json:
    """Return a saga's columns, with JSON columns parsed."""
    return {name: orjson.loads(row[name]) if name in _JSON_COLUMNS else row[name] for name in _COLUMNS}


def _event(row: asyncpg.Record) -> Json:
    headers = {
        name: (value or b"").decode("utf-8", "backslashreplace")
        for name, value in publishable(load_headers(row["headers"]))
        if name != CONTEXT
    }
    return {**row, "headers": headers, "value": read_value(row["value"]), "hash": row["hash"].hex()}


def read_value(stored: bytes | None) -> Any:
    """Return a record's value: parsed if it is JSON, otherwise as text."""
    try:
        return orjson.loads(stored or b"null")
    except orjson.JSONDecodeError:
        return (stored or b"").decode("utf-8", "backslashreplace")
