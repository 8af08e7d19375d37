"""Many sagas brought into the database at once: prints of a real one, by COPY, through the real tables."""

import asyncio
import io
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from tests.benchmarks.scale.imprint import TABLES, Imprint, Place, read_rows
from tests.benchmarks.stage import Stage
from tradesaga.consumers.saga_log.chain import StoredBytes, hash_row, read_row
from tradesaga.consumers.saga_log.store import milliseconds
from tradesaga.schemas.topics import events_topic

Say = Callable[[str], None]
CHUNK: Final = 2000
"""Sagas of one transaction; they are some forty megabytes."""
OUTBOX_SAGAS: Final = 100_000
"""The last sagas of a load, which have their outbox rows too; the product drops these after two days."""
SPREAD_MS: Final = 3_600_000
"""The printed sagas were started over an hour, the last of them when the real one was."""
_COLUMNS: Final = """
SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_PLACES: Final = """
SELECT s.partition, s.id AS step_lane, l.id AS log_lane, s.last_seq + 1 AS next_seq,
    (SELECT coalesce(max(e."offset") + 1, 0) FROM saga_event e WHERE e.topic = $2 AND e.partition = s.partition)
    AS next_offset
FROM lane s JOIN lane l USING (topic, partition)
WHERE s.topic = $1 AND s."group" = $3 AND l."group" = $4
"""
_NUMBERS: Final = """
UPDATE lane SET last_seq = n.last_seq, published_seq = n.last_seq
FROM unnest($1::int[], $2::bigint[]) AS n (id, last_seq) WHERE lane.id = n.id
"""
_WHOLE: Final = """
FROM unnest($1::regclass[]) AS r (oid)
CROSS JOIN LATERAL (SELECT relid FROM pg_partition_tree(r.oid) UNION SELECT r.oid) AS p
"""
"""Tables `r` with their partitions `p`; one that has none is its own."""
_SIZES: Final = f"""
SELECT root.relname AS name, sum(pg_table_size(p.relid))::float8 AS table_bytes,
    sum(pg_indexes_size(p.relid))::float8 AS index_bytes
{_WHOLE} JOIN pg_class root ON root.oid = r.oid
GROUP BY root.relname ORDER BY root.relname
"""
_RECORDS: Final = """
SELECT saga_id, topic, partition, "offset", recorded_at, key, headers, value, hash,
    (SELECT head FROM saga s WHERE s.saga_id = e.saga_id) AS head
FROM saga_event e WHERE saga_id = ANY($1::uuid[]) ORDER BY saga_id, seq
"""
_WARM: Final = f"""
SELECT pg_prewarm(c.oid)
{_WHOLE} JOIN pg_index i ON i.indrelid = p.relid JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relkind = 'i'
"""
CHECKED: Final = 100
_LOADING: Final = {"max_wal_size": "4GB", "checkpoint_timeout": "30min"}
"""A load writes as much in a minute as services do in an hour; checkpoints in between would double it."""


class Loaded(NamedTuple):
    """What a load brought, and how long it took."""

    sagas: Sequence[str]
    seconds: float


def load(stage: Stage, saga: str, real: str, count: int, say: Say) -> Loaded:
    """Print `count` sagas of the definition `saga` like the `real` one; its services must not run meanwhile.

    Their records are said to be of an earlier generation of the topic, so that nobody looks for them on this one.
    """
    return asyncio.run(_load(stage, saga, UUID(real), count, say))


def sizes(stage: Stage) -> list[dict[str, Any]]:
    """Give the bytes of each table that sagas leave rows in, its partitions taken together, and of its indexes."""
    return [dict(row) for row in stage.ask(_SIZES, list(TABLES))]


async def _load(stage: Stage, saga: str, real: UUID, count: int, say: Say) -> Loaded:
    sql = await asyncpg.connect(stage.database)
    began = time.monotonic()
    try:
        await _configure(sql, _LOADING)
        await sql.execute("SET synchronous_commit = off")
        imprint = await take_imprint(sql, real, f"{saga}-past.events")
        places = await _places(sql, saga, imprint.topic)
        ids = sorted(_new_id() for _ in range(count))
        shifts = [SPREAD_MS * (number - count) // count for number in range(count)]

        def printed(at: int) -> dict[str, bytes]:
            tables = [table for table in TABLES if table != "outbox" or at >= count - OUTBOX_SAGAS]
            return imprint.print(ids[at : at + CHUNK], places, shifts[at : at + CHUNK], tables)

        # The next chunk is printed while one is copied.
        following = asyncio.create_task(asyncio.to_thread(printed, 0))
        for at in range(0, count, CHUNK):
            copied, numbers = await following, list(places.values())
            following = asyncio.create_task(asyncio.to_thread(printed, at + CHUNK))
            await _copy(sql, imprint, copied, numbers)
            if (at + CHUNK) % (50 * CHUNK) == 0:
                say(f"{at + CHUNK:,} of {count:,} sagas are in the tables after {time.monotonic() - began:.0f} s")
        await following
        for table in TABLES:
            await sql.execute(f"VACUUM (ANALYZE) {table}")
        await _configure(sql, dict.fromkeys(_LOADING, ""))
        await _settle(sql)
        await _check(sql, ids[:: max(1, count // CHECKED)])
    finally:
        await sql.close()
    return Loaded([str(UUID(bytes=each)) for each in ids], time.monotonic() - began)


async def _settle(sql: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Bring the database to where it would be had it grown by itself: all on the disk, its indexes in memory."""
    await sql.execute("CHECKPOINT")
    await sql.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
    await sql.execute(_WARM, list(TABLES))
    await asyncio.to_thread(os.sync)


async def _check(sql: "asyncpg.Connection[asyncpg.Record]", sagas: Sequence[bytes]) -> None:
    """Read some sagas' records back and follow their chains of hashes. Raises `ValueError` where one is broken."""
    heads: dict[UUID, bytes] = {}
    wanted: dict[UUID, bytes] = {}
    for row in await sql.fetch(_RECORDS, [UUID(bytes=saga) for saga in sagas]):
        saga: UUID = row["saga_id"]
        stored = StoredBytes(row["key"], row["headers"], row["value"], row["hash"])
        record = read_row((row["topic"], row["partition"], row["offset"], milliseconds(row["recorded_at"])), stored)
        heads[saga], wanted[saga] = hash_row(heads.get(saga, b""), record, stored), row["head"]
        if heads[saga] != row["hash"]:
            raise ValueError(f"the chain of the loaded saga {saga} breaks at offset {row['offset']}")
    if len(heads) != len(sagas) or heads != wanted:
        raise ValueError("loaded sagas have no records, or their rows do not end with the last one's hash")


async def take_imprint(sql: "asyncpg.Connection[asyncpg.Record]", real: UUID, topic: str) -> Imprint:
    """Make a stamp of one saga's rows."""
    names: dict[str, Sequence[str]] = {}
    rows: dict[str, Sequence[Sequence[bytes | None]]] = {}
    for table, order in TABLES.items():
        names[table] = [row[0] for row in await sql.fetch(_COLUMNS, table)]
        key = f"aggregateid = '{real}'" if table == "outbox" else f"saga_id = '{real}'"
        copied = io.BytesIO()
        query = f"SELECT * FROM {table} WHERE {key} ORDER BY {order}"
        await sql.copy_from_query(query, output=copied, format="binary")
        rows[table] = read_rows(copied.getvalue())
    return Imprint(real, topic, names, rows)


async def _places(sql: "asyncpg.Connection[asyncpg.Record]", saga: str, past: str) -> dict[int, Place]:
    found = await sql.fetch(_PLACES, events_topic(saga), past, f"{saga}-steps", f"{saga}-log")
    return {
        row["partition"]: Place(row["step_lane"], row["log_lane"], row["next_offset"], row["next_seq"]) for row in found
    }


async def _copy(
    sql: "asyncpg.Connection[asyncpg.Record]", imprint: Imprint, printed: dict[str, bytes], places: Sequence[Place]
) -> None:
    """Copy into all tables, and move the lanes' numbers past what is in the outbox now, in one transaction."""
    async with sql.transaction():
        for table, copied in printed.items():
            await sql.copy_to_table(
                table, source=io.BytesIO(copied), columns=imprint.names[table], format="binary", timeout=300
            )
        await sql.execute(_NUMBERS, [each.step_lane for each in places], [each.next_seq - 1 for each in places])


async def _configure(sql: "asyncpg.Connection[asyncpg.Record]", settings: dict[str, str]) -> None:
    for name, value in settings.items():
        await sql.execute(f"ALTER SYSTEM SET {name} = '{value}'" if value else f"ALTER SYSTEM RESET {name}")
    await sql.execute("SELECT pg_reload_conf()")


def _new_id() -> bytes:
    raw = bytearray(os.urandom(16))
    raw[6], raw[8] = raw[6] & 0x0F | 0x40, raw[8] & 0x3F | 0x80
    return bytes(raw)
