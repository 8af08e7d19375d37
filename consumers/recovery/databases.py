"""The databases of a recovery: one transaction in each, open to its end, so that all of it counts or nothing."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import asyncpg
from asyncpg.transaction import Transaction

from tradesaga.infra.errors import CommandError, ExitCode, unavailable
from tradesaga.infra.ledger.recovery import Shortfall, allow_negative_balances, forbid_negative_balances
from tradesaga.infra.outbox.incarnation import Incarnation, IncarnationKind, begin, refuse_running
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.infra.postgres.partitions import ensure_partitions

_CORE: Final = ("saga", "saga_event", "parked", "step_execution", "start_request", "outbox", "order_register", "lane")
_PATIENT: Final = """
SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '5s'
"""
_PROMOTION: Final = 300.0
"""Seconds that a server may go on replaying its log."""
_LOCK: Final = "LOCK TABLE lane, saga, saga_event, step_execution IN EXCLUSIVE MODE"


class Database:
    """One database under recovery."""

    def __init__(self, url: str, sql: Connection) -> None:
        self.url = url
        self.sql = sql
        self.incarnation = Incarnation(0)
        self._floor: list[tuple[str, str]] = []

    async def begin(self, kind: IncarnationKind, operator: str) -> None:
        """Lock it, refuse what does not fit, and begin its new life. Raises `CommandError` (exit 4)."""
        await refuse_running(self.sql)
        try:
            await self.sql.execute(_LOCK)
        except asyncpg.LockNotAvailableError as error:
            do = "stop every service and every other session that writes, then run this again"
            raise CommandError("database-busy", "the database is in use", "PostgreSQL", do, ExitCode.REFUSED) from error
        await self._check(kind)
        self.incarnation = await begin(self.sql, kind, operator)
        self._floor = await allow_negative_balances(self.sql)

    async def _check(self, kind: IncarnationKind) -> None:
        full = [name for name in _CORE if await self.sql.fetchval(f"SELECT EXISTS (SELECT FROM {name})")]
        if kind == "rebuilt" and full:
            do = "rebuild into an empty, migrated database; one that was restored is for `tradesaga recover restored`"
            what = f"the database is not empty: {', '.join(full)} have rows"
            raise CommandError("database-not-empty", what, "PostgreSQL", do, ExitCode.REFUSED)
        if kind != "rebuilt" and "lane" not in full:
            do = "into an empty database everything is rebuilt by `tradesaga recover database`"
            raise CommandError("database-empty", "the database has no lanes", "PostgreSQL", do, ExitCode.REFUSED)

    async def end(self) -> list[Shortfall]:
        """Check the balances again, and say what is missing of payments."""
        return await forbid_negative_balances(self.sql, self._floor, self.incarnation.number)


async def _await_promotion(sql: Connection) -> None:
    """Wait until a server that replays its log takes writes; raises `CommandError` (exit 5) if it goes on for long."""
    until = time.monotonic() + _PROMOTION
    while await sql.fetchval("SELECT pg_is_in_recovery()"):
        if time.monotonic() > until:
            what, do = "the server still replays its log", "wait until it is promoted, or promote it (`pg_promote()`)"
            raise unavailable("database-replaying", what, "PostgreSQL", do)
        await asyncio.sleep(0.2)


@asynccontextmanager
async def transactions(urls: Iterable[str], *, dry_run: bool) -> AsyncGenerator[dict[str, Database]]:
    """Open a transaction in each database; they are committed one after the other at the end, or all rolled back."""
    async with AsyncExitStack() as stack:
        opened: dict[str, Database] = {}
        pending: list[Transaction] = []
        for url in sorted(set(urls)):
            sql = await stack.enter_async_context(session(url, application_name="tradesaga recover"))
            await _await_promotion(sql)
            await sql.execute(_PATIENT)
            await ensure_partitions(sql)
            transaction = sql.transaction()
            await transaction.start()
            pending.append(transaction)
            opened[url] = Database(url, sql)
        try:
            yield opened
        except BaseException:
            for transaction in pending:
                await transaction.rollback()
            raise
        for transaction in pending:
            await (transaction.rollback() if dry_run else transaction.commit())


_DECLARE: Final = """
INSERT INTO lane ("group", topic, partition, epoch, last_seq, published_seq)
SELECT $1, $2, number, $4, $4, $4 FROM generate_series(0, $3::int - 1) AS number
ON CONFLICT ("group", topic, partition) DO NOTHING
"""
_READ: Final = """
SELECT id, topic, partition, epoch, next_offset, last_seq, published_seq FROM lane
WHERE "group" = $1 AND topic = $2 ORDER BY partition
"""
_MOVE: Final = """
UPDATE lane SET next_offset = t.next_offset FROM unnest($3::int[], $4::bigint[]) AS t (partition, next_offset)
WHERE "group" = $1 AND topic = $2 AND lane.partition = t.partition
"""


async def declare_lanes(
    sql: Connection, group: str, topic: str, partitions: int, incarnation: Incarnation
) -> dict[int, Lane]:
    """Have the group's lanes of a topic exist, and give them by partition."""
    await sql.execute(_DECLARE, group, topic, partitions, incarnation.base)
    return {row["partition"]: Lane(*row) for row in await sql.fetch(_READ, group, topic)}


async def move_lanes(sql: Connection, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Have the group go on reading from these offsets, by partition."""
    await sql.execute(_MOVE, group, topic, list(offsets), list(offsets.values()))
