"""Sagas as the API shows them: a page at a time, newest first, or one with all that was said of it."""

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from infra.database import Pool
from producers.gateway.refusal import Refusal, refuse

_COLUMNS: Final = """saga_id, name, version, state, current_step_index, completed_steps, compensated_steps, context,
    deadline, request_hash, created_at, updated_at"""
_PAGE: Final = f"""
SELECT {_COLUMNS} FROM saga
WHERE name = $1 AND ($2::text IS NULL OR state = $2)
    AND ($3::text IS NULL OR context -> $5 ->> 'account' = $3)
    AND ($4::text IS NULL OR context -> $5 ->> 'symbol' = $4)
    AND ($6::timestamptz IS NULL OR (created_at, saga_id) < ($6, $7))
ORDER BY created_at DESC, saga_id DESC LIMIT $8
"""
_ONE: Final = f"SELECT {_COLUMNS} FROM saga WHERE saga_id = $1"
_EVENTS: Final = """
SELECT topic, partition, "offset", recorded_at, seq, event_type, step_name, event_time, error
FROM saga_event WHERE saga_id = $1 ORDER BY seq NULLS FIRST, recorded_at, topic, partition, "offset"
"""
_JSON: Final = ("completed_steps", "compensated_steps", "context")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of the list; None asks for any. `start` names the event that starts the saga."""

    saga: str
    start: str
    state: str | None
    account: str | None
    symbol: str | None
    limit: int
    cursor: str | None


async def read_page(pool: Pool, query: Query) -> Json:
    """Give a page, and the cursor of the one after it (null on the last); raises `Refusal` for a made-up cursor."""
    at, after = _place(query.cursor)
    rows = await pool.fetch(
        _PAGE, query.saga, query.state, query.account, query.symbol, query.start, at, after, query.limit + 1
    )
    shown = rows[: query.limit]
    more = len(rows) > query.limit
    return {"sagas": [_show(row) for row in shown], "next": _cursor(shown[-1]) if more else None}


async def read_one(pool: Pool, saga_id: UUID) -> Json | None:
    """Give a saga and its events in the order in which they were recorded; None if it is not known."""
    row = await pool.fetchrow(_ONE, saga_id)
    if row is None:
        return None
    events = await pool.fetch(_EVENTS, saga_id)
    return {**_show(row), "events": [dict(event) for event in events]}


def _show(row: asyncpg.Record) -> Json:
    shown = dict(row)
    for name in _JSON:
        shown[name] = orjson.Fragment(shown[name])
    return shown


def _cursor(row: asyncpg.Record) -> str:
    return base64.urlsafe_b64encode(f"{row['created_at'].isoformat()} {row['saga_id']}".encode()).decode().rstrip("=")


def _place(cursor: str | None) -> tuple[datetime | None, UUID | None]:
    if cursor is None:
        return None, None
    try:
        at, _, after = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(" ")
        return datetime.fromisoformat(at).astimezone(UTC), UUID(after)
    except ValueError:
        raise _bad_cursor() from None


def _bad_cursor() -> Refusal:
    return refuse(422, "bad-cursor", "the cursor is none that was given out", "cursor", "take `next` of the last page")
