"""Table partitions: one per month of the audit log, one per day of the outbox, dropped once published."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Final

import asyncpg
import structlog

from tradesaga.infra.postgres.database import DATABASE_ERRORS, Connection, Pool

LOCK: Final = 7_263_410_953
MONTHS_AHEAD: Final = 2
DAYS_AHEAD: Final = 3
OUTBOX_DAYS_KEPT: Final = 2
_OWNED: Final = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'saga_event'::regclass"
EVERY: Final = 3600.0
"""Seconds between two checks."""


@dataclass(frozen=True, slots=True)
class PartitionRange:
    """The range of a partition: the rows of `table` whose `column` is in [start, end)."""

    table: str
    column: str
    start: datetime
    end: datetime

    @property
    def name(self) -> str:
        """The partition's name: its table and first day."""
        return f"{self.table}_{self.start:%Y%m%d}"


def month_ranges(since: datetime) -> Iterator[PartitionRange]:
    """Yield the audit log's months from that of `since` on, without an end."""
    month = since.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while True:
        following = (month + timedelta(days=32)).replace(day=1)
        yield PartitionRange("saga_event", "recorded_at", month, following)
        month = following


def wanted_partitions(now: datetime) -> Iterator[PartitionRange]:
    """Yield the partitions that should exist at `now`: the current ones and those ahead."""
    ahead = month_ranges(now)
    yield from (next(ahead) for _ in range(MONTHS_AHEAD + 1))
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for ahead in range(DAYS_AHEAD + 1):
        yield PartitionRange("outbox", "created_at", day + timedelta(days=ahead), day + timedelta(days=ahead + 1))


@asynccontextmanager
async def maintain_partitions(pool: Pool) -> AsyncGenerator[None]:
    """Create and drop partitions now and once an hour while the context is open."""
    task = asyncio.create_task(_maintain(pool), name="partitions")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _maintain(pool: Pool) -> None:
    log = structlog.get_logger("partitions")
    while True:
        try:
            async with pool.acquire(timeout=60) as sql:
                done = await ensure_partitions(sql)
        except DATABASE_ERRORS as error:
            log.warning("partitions not maintained", why=f"{type(error).__name__}: {error}")
        else:
            log.info("partitions maintained", done=done)
        await asyncio.sleep(EVERY)


async def ensure_partitions(sql: Connection) -> list[str]:
    """Create missing partitions and drop published outbox partitions; return what was done.

    Safe to call from any number of processes, about once an hour. A partition that cannot be locked now, or whose rows
    are in the default partition already, is skipped: rows always have a place. Does nothing for a user who does not own
    the tables; the owner's `tradesaga migrate` does it.
    """
    done: list[str] = []
    if not await sql.fetchval(_OWNED) or not await sql.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
        return done
    try:
        now = await sql.fetchval("SELECT clock_timestamp()")
        existing = await _existing(sql)
        missing = [span for span in wanted_partitions(now) if span.name not in existing]
        done += [f"created {span.name}" for span in missing if await _create(sql, span)]
        done += [f"dropped {name}" for name in sorted(existing) if await _drop_published(sql, name, now)]
    finally:
        await sql.execute("SELECT pg_advisory_unlock($1)", LOCK)
    return done


async def create_month_partitions(sql: Connection, since: datetime) -> list[str]:
    """Create the audit log's partitions from the month of `since` to the current one; return their names.

    With them, the months of a rebuilt log can be retired one by one.
    """
    now, existing = await sql.fetchval("SELECT clock_timestamp()"), await _existing(sql)
    past = takewhile(lambda span: span.start <= now, month_ranges(since))
    return [span.name for span in past if span.name not in existing and await _create(sql, span)]


async def _existing(sql: Connection) -> set[str]:
    rows = await sql.fetch(
        "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid"
        " WHERE inhparent IN ('saga_event'::regclass, 'outbox'::regclass)"
    )
    return {row[0] for row in rows}


async def _create(sql: Connection, span: PartitionRange) -> bool:
    """Create a partition detached and attach it, so that readers and writers are not blocked."""
    bounds = f"'{span.start.isoformat()}'", f"'{span.end.isoformat()}'"
    try:
        async with sql.transaction():
            taken = f"SELECT EXISTS (SELECT FROM {span.table}_default WHERE {span.column} >= {bounds[0]}"
            if await sql.fetchval(f"{taken} AND {span.column} < {bounds[1]})"):
                return False
            await sql.execute(
                f"CREATE TABLE {span.name} (LIKE {span.table} INCLUDING ALL);"
                f"ALTER TABLE {span.table} ATTACH PARTITION {span.name} FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})"
            )
            if span.table == "saga_event":
                # Row triggers are inherited; this one, for statements, is not.
                await sql.execute(
                    f"CREATE TRIGGER saga_event_keep BEFORE TRUNCATE ON {span.name}"
                    " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
                )
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.CheckViolationError):
        return False
    return True


async def _drop_published(sql: Connection, name: str, now: datetime) -> bool:
    """Drop an outbox partition of past days if each row is below its lane's published watermark."""
    if not name.startswith("outbox_2") or name >= f"outbox_{now - timedelta(days=OUTBOX_DAYS_KEPT):%Y%m%d}":
        return False
    try:
        async with sql.transaction():
            if await sql.fetchval(
                f"SELECT EXISTS (SELECT FROM {name} o LEFT JOIN lane l ON l.id = o.lane"
                " WHERE l.id IS NULL OR o.seq > l.published_seq)"
            ):
                return False
            await sql.execute(f"DROP TABLE {name}")
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
        return False
    return True
