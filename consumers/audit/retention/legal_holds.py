"""Legal holds: records that must not be retired until an operator releases the hold."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, cast
from uuid import UUID

import orjson

from tradesaga.consumers.audit.log.action_log import Action, ActionKind
from tradesaga.consumers.audit.retention.segments import Segment
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.saga_queries import QUERYABLE_CONTEXT

_NAMED: Final = "SELECT EXISTS (SELECT FROM {rows} e WHERE e.saga_id = ANY($1::uuid[]))"
_SPAN: Final = """
SELECT EXISTS (
    SELECT FROM {rows} e WHERE e.recorded_at >= $1::text::timestamptz AND e.recorded_at < $2::text::timestamptz
)
"""
# Any message of the saga may have it, usually the start.
_SAGAS: Final = f"""
SELECT saga_id FROM saga WHERE EXISTS (
    SELECT FROM json_each(
        CASE json_typeof(saga.context) WHEN 'object' THEN {QUERYABLE_CONTEXT} ELSE '{{}}' END
    ) AS m (name, value)
    WHERE CASE json_typeof(m.value) WHEN 'object' THEN m.value ->> $1 END = $2
)
"""
_NAMELESS: Final = """
SELECT EXISTS (SELECT FROM {rows} e WHERE NOT EXISTS (SELECT FROM saga s WHERE s.saga_id = e.saga_id))
"""


class Scope(StrEnum):
    """What selects the held records."""

    SAGA = "saga"
    ACCOUNT = "account"
    SYMBOL = "symbol"
    TIME = "time"


@dataclass(frozen=True, slots=True, eq=False)
class LegalHold:
    """A hold; `number` is that of the action that set it. A time range is two times in RFC 3339."""

    number: int
    scope: Scope
    key: str
    until: str
    set_by: Action
    released_by: Action | None = None

    def __str__(self) -> str:
        """Return number, scope, operator and reason."""
        what = f"{self.key} to {self.until}" if self.scope is Scope.TIME else self.key
        return f"hold {self.number} ({self.scope} {what}, by {self.set_by.operator}: {self.set_by.reason})"


def describe_hold(scope: Scope, key: str, until: datetime | None = None) -> dict[str, Any]:
    """Return the detail of the action that sets a hold."""
    return {"scope": scope.value, "key": key} | ({"until": until.isoformat()} if until is not None else {})


def read_holds(actions: Iterable[tuple[int, Action]]) -> list[LegalHold]:
    """Return all holds, released ones included, oldest first."""
    holds: dict[int, LegalHold] = {}
    for number, action in actions:
        if action.kind is ActionKind.HOLD:
            told = action.detail
            holds[number] = LegalHold(number, Scope(told["scope"]), told["key"], told.get("until", ""), action)
        elif action.kind is ActionKind.RELEASE:
            released = action.detail["hold"]
            holds[released] = replace(holds[released], released_by=action)
    return list(holds.values())


class ActiveHolds:
    """The active holds, and the sagas of each."""

    def __init__(self, sagas: Mapping[LegalHold, Sequence[UUID]]) -> None:
        self._sagas = sagas

    @classmethod
    async def find(cls, sql: Connection, holds: Iterable[LegalHold]) -> "ActiveHolds":
        """Find the sagas of the active ones among these holds."""
        return cls({hold: await _sagas_of(sql, hold) for hold in holds if hold.released_by is None})

    def named(self, *scopes: Scope) -> list[LegalHold]:
        """Return the holds of these scopes."""
        return [hold for hold in self._sagas if hold.scope in scopes]

    async def over(self, sql: Connection, segment: Segment) -> list[str]:
        """Return the holds that forbid retiring a segment."""
        return [str(hold) for hold, sagas in self._sagas.items() if await _holds(sql, segment, hold, sagas)]

    async def in_doubt(self, sql: Connection, segment: Segment) -> list[str]:
        """Return the holds that may do so: a record of no known saga can be of any account and any symbol."""
        holds = self.named(Scope.ACCOUNT, Scope.SYMBOL)
        if not holds or not await sql.fetchval(_NAMELESS.format(rows=segment.rows)):
            return []
        return [f"{hold}: there are records of no known saga, which may be of this {hold.scope}" for hold in holds]


async def _sagas_of(sql: Connection, hold: LegalHold) -> list[UUID]:
    match hold.scope:
        case Scope.SAGA:
            return [UUID(hold.key)]
        case Scope.TIME:
            return []
        case Scope.ACCOUNT | Scope.SYMBOL:
            return [row["saga_id"] for row in await sql.fetch(_SAGAS, hold.scope.value, hold.key)]


async def _holds(sql: Connection, segment: Segment, hold: LegalHold, sagas: Sequence[UUID]) -> bool:
    if hold.scope is Scope.TIME:
        return await sql.fetchval(_SPAN.format(rows=segment.rows), hold.key, hold.until)
    return await sql.fetchval(_NAMED.format(rows=segment.rows), sagas)


def names_held(hold: LegalHold, value: bytes) -> bool:
    """Return whether a message has the held account or symbol."""
    if hold.key.encode() not in value:
        return False
    try:
        said = orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return isinstance(said, dict) and cast("dict[str, Any]", said).get(hold.scope.value) == hold.key
