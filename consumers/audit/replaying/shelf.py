"""Sagas that have ended, put aside on disk while a replay goes on, so that memory does not grow with their number."""

import sqlite3
from collections.abc import Iterator
from typing import Final, Self
from uuid import UUID

from consumers.saga_log.checkpoint import Checkpoint, Tracked
from infra.progress import decode_progress, encode_progress
from sagas.machine import Machine
from sagas.status import Status

_TABLE: Final = (
    "CREATE TABLE saga (saga_id BLOB PRIMARY KEY, home INTEGER, progress BLOB, rest TEXT, context BLOB, head BLOB)"
)
_PUT: Final = "INSERT OR REPLACE INTO saga VALUES (?, ?, ?, ?, ?, ?)"
_TAKE: Final = "DELETE FROM saga WHERE saga_id = ? RETURNING home, progress, rest, context, head"
_ALL: Final = "SELECT saga_id, home, progress, rest, context, head FROM saga"


class Shelf:
    """A temporary SQLite database of its own, gone when it is closed."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._sql = sqlite3.connect("", isolation_level=None)
        self._sql.execute(_TABLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sql.close()

    def put(self, tracked: Tracked, checkpoint: Checkpoint) -> None:
        """Put a saga aside."""
        rest = (
            checkpoint.version, checkpoint.status.value, checkpoint.request_hash, checkpoint.seq, checkpoint.created_ms,
            checkpoint.updated_ms, checkpoint.deadline_ms, int(checkpoint.deadline_pending),
        )  # fmt: skip
        progress = encode_progress(self._machine, checkpoint.state)
        told = "\t".join(map(str, rest))
        row = (tracked.saga_id.bytes, tracked.home, progress, told, checkpoint.context, checkpoint.head)
        self._sql.execute(_PUT, row)

    def take(self, saga_id: UUID) -> Tracked | None:
        """Take a saga back, if it is here."""
        rows = self._sql.execute(_TAKE, (saga_id.bytes,)).fetchall()
        return self._read(saga_id, *rows[0]) if rows else None

    def __iter__(self) -> Iterator[Tracked]:
        """Give all that are here."""
        for saga_id, *rest in self._sql.execute(_ALL):
            yield self._read(UUID(bytes=saga_id), *rest)

    def _read(self, saga_id: UUID, home: int, progress: bytes, rest: str, *blobs: bytes) -> Tracked:
        context, head = blobs
        version, status, request_hash, seq, created, updated, deadline, pending = rest.split("\t")
        checkpoint = Checkpoint(
            version=int(version),
            state=decode_progress(self._machine, progress),
            status=Status(status),
            context=context,
            request_hash=request_hash,
            seq=int(seq),
            head=head,
            created_ms=int(created),
            updated_ms=int(updated),
            deadline_ms=int(deadline),
            deadline_pending=pending == "1",
        )
        return Tracked(saga_id, home, checkpoint)
