"""The databases of a recovery: one transaction in each, committed at the end."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import asyncpg
from asyncpg.transaction import Transaction

from tradesaga.consumers.participant import Participant
from tradesaga.consumers.recovery.refusals import Report, refused
from tradesaga.infra.errors import unavailable
from tradesaga.infra.ledger.recovery import Shortfall, allow_negative_balances, forbid_negative_balances
from tradesaga.infra.outbox.incarnation import Incarnation, IncarnationKind, begin, refuse_running
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.infra.postgres.partitions import ensure_partitions
from tradesaga.infra.registry.sagas import RegisteredSaga
from tradesaga.infra.settings import SAGA_LOG, Settings

_CORE: Final = ("saga", "saga_event", "parked", "step_execution", "start_request", "outbox", "order_register", "lane")
_PATIENT: Final = """
SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '5s'
"""
_PROMOTION: Final = 300.0
"""Seconds to wait for a server that replays its log."""
_PARTITIONS: Final = "SELECT DISTINCT topic, partitions FROM lane WHERE partitions IS NOT NULL ORDER BY topic"
_LOCK: Final = "LOCK TABLE lane, saga, saga_event, step_execution IN EXCLUSIVE MODE"


class Database:
    """One database under recovery; `partitions` are the topics that its lanes have read, each with its number."""

    def __init__(self, url: str, sql: Connection) -> None:
        self.url = url
        self.sql = sql
        self.incarnation = Incarnation(0)
        self.partitions: list[tuple[str, int]] = []
        self._floor: list[tuple[str, str]] = []

    async def begin(self, kind: IncarnationKind, operator: str) -> None:
        """Lock the database, check it, and begin its next incarnation. Raises `CommandError` (exit 4)."""
        await refuse_running(self.sql)
        try:
            await self.sql.execute(_LOCK)
        except asyncpg.LockNotAvailableError as error:
            do = "stop every service and every other session that writes, then run this again"
            raise refused("database-busy", "the database is in use", "PostgreSQL", do) from error
        await self._check(kind)
        # The next incarnation forgets them: its lanes take the number of the topics that they then find.
        self.partitions = [(row["topic"], row["partitions"]) for row in await self.sql.fetch(_PARTITIONS)]
        self.incarnation = await begin(self.sql, kind, operator)
        self._floor = await allow_negative_balances(self.sql)

    async def _check(self, kind: IncarnationKind) -> None:
        full = [name for name in _CORE if await self.sql.fetchval(f"SELECT EXISTS (SELECT FROM {name})")]
        if kind == "rebuilt" and full:
            do = "use an empty, migrated database; for a restored one, run `tradesaga recover restored`"
            what = f"the database is not empty: {', '.join(full)} have rows"
            raise refused("database-not-empty", what, "PostgreSQL", do)
        if kind != "rebuilt" and "lane" not in full:
            do = "for an empty database, run `tradesaga recover database`"
            raise refused("database-empty", "the database has no lanes", "PostgreSQL", do)

    async def end(self) -> list[Shortfall]:
        """Check the balances again, and return the missing payments."""
        return await forbid_negative_balances(self.sql, self._floor, self.incarnation.number)


async def _await_promotion(sql: Connection) -> None:
    """Wait until a server that replays its log accepts writes. Raises `CommandError` (exit 5) after `_PROMOTION`."""
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


@asynccontextmanager
async def recovery(
    settings: Settings,
    sagas: Sequence[RegisteredSaga[Participant]],
    kind: IncarnationKind,
    operator: str,
    *,
    dry_run: bool = False,
) -> AsyncGenerator[tuple[dict[str, Database], Report]]:
    """Open the databases of the saga log and of all participants, by service, with the report on the recovery.

    Each begins its next incarnation. At the end the balances are checked and all is committed.
    """
    began, report = time.monotonic(), Report(kind, dry_run=dry_run)
    names = {SAGA_LOG, *(each.name for registered in sagas for each in registered.participants)}
    urls = {name: settings.database_for(name) for name in sorted(names)}
    async with transactions(urls.values(), dry_run=dry_run) as opened:
        for database in opened.values():
            await database.begin(kind, operator)
        yield {name: opened[url] for name, url in urls.items()}, report
        for database in opened.values():
            for each in await database.end():
                report.shortfalls.append({"account": each.account, "amount": f"{each.amount:f}", "asset": each.asset})
        report.incarnation = max(database.incarnation.number for database in opened.values())
    report.seconds = time.monotonic() - began


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


async def declare_lanes(database: Database, group: str, topic: str, partitions: int) -> dict[int, Lane]:
    """Create the missing lanes of a group on a topic, and return all of them by partition."""
    await database.sql.execute(_DECLARE, group, topic, partitions, database.incarnation.base)
    return {row["partition"]: Lane(*row) for row in await database.sql.fetch(_READ, group, topic)}


async def move_lanes(sql: Connection, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Set the next offset of a group on each of these partitions."""
    await sql.execute(_MOVE, group, topic, list(offsets), list(offsets.values()))
