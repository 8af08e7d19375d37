"""One saga's rows of the audit log, as they are stored, in the order in which they are told."""

from collections.abc import Iterable, Mapping, Sequence
from heapq import merge
from itertools import groupby
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from tradesaga.consumers.audit.report.model import Place
from tradesaga.consumers.saga_log.chain import FORMAT, StoredBytes, format_of, hash_row, read_row
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.postgres.database import Connection

_ROWS: Final = """
SELECT topic, partition, "offset", (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_ms, key, headers,
    value, hash, skipped, seq, error, writer_epoch
FROM saga_event WHERE saga_id = $1
"""
_HEADS: Final = "SELECT seq, hash FROM audit_retired_head WHERE saga_id = $1"
_WRONG_KEY: Final = "dead letter: the key"
"""How the saga log notes a foreign key; rows of format 1 do not have theirs."""


class StoredRow(NamedTuple):
    """One row: its record, what is stored of that, and what the saga log noted beside it."""

    record: Record
    stored: StoredBytes
    seq: int | None
    error: str | None
    writer_epoch: int

    @property
    def hash(self) -> bytes:
        """Return the hash that is stored."""
        return self.stored.hash

    @property
    def place(self) -> Place:
        """Give where the record is."""
        return Place(self.record.topic, self.record.partition, self.record.offset)


async def read_rows(sql: Connection, saga_id: UUID) -> list[StoredRow]:
    """Read all rows of a saga, in order."""
    return arrange(_row(row, saga_id) for row in await sql.fetch(_ROWS, saga_id))


async def read_heads(sql: Connection, saga_id: UUID) -> dict[int, bytes]:
    """Read the hashes of the saga's last records that were retired, by their numbers in the saga."""
    return {row["seq"]: row["hash"] for row in await sql.fetch(_HEADS, saga_id)}


def arrange(rows: Iterable[StoredRow]) -> list[StoredRow]:
    """Put rows into order: within a partition by offset, whatever the clocks said; partitions by the broker's time."""
    ordered = sorted(rows, key=lambda row: row.place)
    logs = [list(log) for _, log in groupby(ordered, key=lambda row: row.place[:2])]
    return list(merge(*logs, key=lambda row: row.record.recorded_ms))


def rehash(rows: Sequence[StoredRow], retired: Mapping[int, bytes]) -> list[bytes]:
    """Give the hash that each row's bytes have behind the hash that is stored of the saga's record before."""
    heads = {**retired} | {row.seq: row.hash for row in rows if row.seq is not None}
    return [
        hash_row(heads.get(row.seq - 1, b"") if row.seq is not None else b"", row.record, row.stored) for row in rows
    ]


def _row(row: asyncpg.Record, saga_id: UUID) -> StoredRow:
    topic, partition, offset, recorded_ms, key, headers, value, found, skipped, seq, error, epoch = row
    stored = StoredBytes(key, headers, value, found, skipped)
    record = read_row((topic, partition, offset, recorded_ms), stored)
    if format_of(found) != FORMAT and not (error or "").startswith(_WRONG_KEY):
        record = record._replace(key=str(saga_id).encode())
    return StoredRow(record, stored, seq, error, epoch)
