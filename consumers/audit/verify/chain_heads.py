"""The heads of sagas' chains while a log is read: the recent ones in memory, the rest on disk."""

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Final
from uuid import UUID

from tradesaga.infra.clock import read_id

LIMIT: Final = 200_000
"""Heads in memory; beyond it all of them are put aside, so that memory does not grow with the number of sagas."""
_TABLE: Final = "CREATE TABLE head (saga_id TEXT PRIMARY KEY, seq INTEGER, hash BLOB) WITHOUT ROWID"
_PUT: Final = "INSERT OR REPLACE INTO head VALUES (?, ?, ?)"
_GET: Final = "SELECT seq, hash FROM head WHERE saga_id = ?"
_DELETE: Final = "DELETE FROM head WHERE saga_id = ?"
_ALL: Final = "SELECT saga_id FROM head"

Head = tuple[int, bytes]
"""How many records of a saga are counted, and the hash of the last one."""


class ChainHeads:
    """By saga."""

    def __init__(self, known: Mapping[UUID, Head], limit: int = LIMIT) -> None:
        self._recent = dict(known)
        self._limit = limit
        self._disk: sqlite3.Connection | None = None

    def get(self, saga_id: UUID) -> Head | None:
        """Return a saga's head."""
        found = self._recent.get(saga_id)
        if found is not None or self._disk is None:
            return found
        rows = self._disk.execute(_GET, (str(saga_id),)).fetchall()
        return (rows[0][0], rows[0][1]) if rows else None

    def put(self, saga_id: UUID, head: Head) -> None:
        """Set a saga's head."""
        self._recent[saga_id] = head
        if len(self._recent) > self._limit:
            self._put_aside()

    def take(self, saga_id: UUID) -> Head | None:
        """Return a saga's head, and forget it."""
        found = self.get(saga_id)
        self._recent.pop(saga_id, None)
        if self._disk is not None:
            self._disk.execute(_DELETE, (str(saga_id),))
        return found

    def __iter__(self) -> Iterator[UUID]:
        """Yield the sagas that there are."""
        yield from self._recent
        if self._disk is not None:
            for (text,) in self._disk.execute(_ALL):
                if (saga_id := read_id(text)) not in self._recent:
                    yield saga_id

    def close(self) -> None:
        """Forget everything."""
        self._recent.clear()
        if self._disk is not None:
            self._disk.close()
            self._disk = None

    def _put_aside(self) -> None:
        if self._disk is None:
            self._disk = sqlite3.connect("", isolation_level=None)
            self._disk.execute(_TABLE)
        self._disk.execute("BEGIN")
        self._disk.executemany(_PUT, ((str(saga_id), *head) for saga_id, head in self._recent.items()))
        self._disk.execute("COMMIT")
        self._recent.clear()
