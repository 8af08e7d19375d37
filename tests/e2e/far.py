"""The far side of remote steps: a ledger in tables of its own, outside every transaction of ours."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import asyncpg

from tradesaga.infra.postgres.database import Pool
from tradesaga.sagas.errors import OutcomeUnknownError

TABLES = """
CREATE TABLE effect (
    id serial PRIMARY KEY, saga_id uuid, step text, direction text, attempt int, facts text[] DEFAULT '{}');
CREATE TABLE attempt (id serial PRIMARY KEY, saga_id uuid, step text, direction text, attempt int, at timestamptz
    DEFAULT clock_timestamp());
CREATE TABLE far_call (
    id serial PRIMARY KEY, key text, kind text, expires bigint, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE far_order (key text PRIMARY KEY, state text NOT NULL, taken int NOT NULL DEFAULT 1);
CREATE TABLE far_report (key text, report_id text, kind text, PRIMARY KEY (key, report_id));
"""


class FarSide:
    """What the far side knows. Each method commits by itself, as a real far side would.

    A request that the database does not answer is one whose outcome is unknown: `OutcomeUnknownError`.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def note(self, saga_id: UUID, step: str, direction: str, attempt: int) -> None:
        """Remember an attempt, whatever becomes of it."""
        await self._tell(
            "INSERT INTO attempt (saga_id, step, direction, attempt) VALUES ($1, $2, $3, $4)",
            saga_id, step, direction, attempt,
        )  # fmt: skip

    async def heard(self, key: str, kind: str, expires: int = 0) -> int:
        """Remember a request; give how many of this kind there have been for the key."""
        await self._tell("INSERT INTO far_call (key, kind, expires) VALUES ($1, $2, $3)", key, kind, expires)
        return await self._ask("SELECT count(*) FROM far_call WHERE key = $1 AND kind = $2", key, kind)

    async def place(self, key: str, kind: str = "") -> None:
        """Have the effect, and what is to be said of it, at once; a second one under the same key is counted."""
        await self._tell(
            "WITH said AS (INSERT INTO far_report SELECT $1, 'r1', $2 WHERE $2 <> '' ON CONFLICT DO NOTHING) "
            "INSERT INTO far_order (key, state) VALUES ($1, 'open') "
            "ON CONFLICT (key) DO UPDATE SET taken = far_order.taken + 1",
            key, kind,
        )  # fmt: skip

    async def state(self, key: str) -> str | None:
        """Say where an order stands; None for one that was never placed."""
        return await self._ask("SELECT state FROM far_order WHERE key = $1", key)

    async def move(self, key: str, state: str) -> None:
        """Move an order on, unless it is closed already."""
        await self._tell("UPDATE far_order SET state = $2 WHERE key = $1 AND state = 'open'", key, state)

    async def report(self, key: str, report_id: str, kind: str) -> None:
        """Say something of an order."""
        await self._tell("INSERT INTO far_report VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", key, report_id, kind)

    async def reports(self, key: str) -> list[tuple[str, str]]:
        """Give all that was said of an order: (report id, kind)."""
        text = (
            "SELECT json_agg(json_build_array(report_id, kind) ORDER BY report_id)::text FROM far_report WHERE key = $1"
        )
        return [(report_id, kind) for report_id, kind in json.loads(await self._ask(text, key) or "[]")]

    async def _tell(self, statement: str, *values: object) -> None:
        with _unanswered():
            await self._pool.execute(statement, *values)

    async def _ask(self, statement: str, *values: object) -> Any:
        with _unanswered():
            return await self._pool.fetchval(statement, *values)


@contextmanager
def _unanswered() -> Generator[None]:
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise OutcomeUnknownError(f"{type(error).__name__}: {error}") from error
