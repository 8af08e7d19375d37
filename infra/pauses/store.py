"""What operators have paused: sagas, accounts and venues, with who and why, in the database of every service."""

from collections.abc import Sequence
from enum import StrEnum

import asyncpg

from tradesaga.infra.postgres.database import session
from tradesaga.infra.settings import Settings

SERVICES = ("risk", "cash", "execution", "settlement")
_PAUSE = """
INSERT INTO hold (scope, key, operator, reason) VALUES ($1, $2, $3, $4)
ON CONFLICT (scope, key) DO UPDATE SET operator = excluded.operator, reason = excluded.reason
"""
_RESUME = "DELETE FROM hold WHERE scope = $1 AND key = $2"
_LIST = "SELECT scope, key, operator, reason, created_at FROM hold ORDER BY created_at"


class Scope(StrEnum):
    """What can be paused."""

    SAGA = "saga"
    VENUE = "venue"
    ACCOUNT = "account"


async def pause(settings: Settings, scope: Scope, key: str, operator: str, reason: str) -> None:
    """Keep the steps of what is named from starting, from each service's next batch on; a second pause says why anew.

    What is under way is brought to its end, and compensations and settlements go on.
    """
    for url in _databases(settings):
        async with session(url) as sql:
            await sql.execute(_PAUSE, scope.value, key, operator, reason)


async def resume(settings: Settings, scope: Scope, key: str) -> bool:
    """Remove a pause; False if there was none."""
    paused = False
    for url in _databases(settings):
        async with session(url) as sql:
            paused |= await sql.execute(_RESUME, scope.value, key) != "DELETE 0"
    return paused


async def list_holds(settings: Settings) -> Sequence[asyncpg.Record]:
    """Read what is paused, the oldest first."""
    found: dict[tuple[str, str], asyncpg.Record] = {}
    for url in _databases(settings):
        async with session(url) as sql:
            found |= {(row["scope"], row["key"]): row for row in await sql.fetch(_LIST)}
    return sorted(found.values(), key=lambda row: row["created_at"])


def _databases(settings: Settings) -> list[str]:
    return sorted({settings.database_for(service) for service in SERVICES})
