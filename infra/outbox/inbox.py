"""Fetched records that wait for a batch, limited by count and by bytes, whichever is reached first."""

from collections import deque
from typing import Final

from tradesaga.infra.kafka.codec import record_checksum
from tradesaga.infra.outbox.batch import Chunk

BATCHES: Final = 4
"""Number of batches at which fetching pauses."""
BYTES_LIMIT: Final = 32 * 1024 * 1024
"""Bytes at which fetching pauses; one poll may still add half a megabyte for each partition."""
BATCH_BYTES: Final = 8 * 1024 * 1024
"""Bytes at which a batch is full, however few its records."""


class Inbox:
    """Chunks in the order of their polls."""

    def __init__(self, batch: int, limit: int = BYTES_LIMIT, batch_bytes: int = BATCH_BYTES) -> None:
        self._batch = batch
        self._limit = limit
        self._batch_bytes = batch_bytes
        self._chunks: deque[tuple[Chunk, int]] = deque()
        self.records = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        """Return whether any chunk waits; one without records counts too, since it moves its lane's offset."""
        return bool(self._chunks)

    @property
    def full(self) -> bool:
        """Whether fetching should pause."""
        return self.records > BATCHES * self._batch or self.bytes > self._limit

    @property
    def oldest_ms(self) -> int:
        """The broker's time of the first record that waits, milliseconds since 1970; 0 if none does."""
        return next((chunk.records[0].recorded_ms for chunk, _ in self._chunks if chunk.records), 0)

    def put(self, chunk: Chunk) -> None:
        """Add the records of one poll of one partition; more than fit into a batch are split."""
        first = size = 0
        for place, record in enumerate(chunk.records):
            length = record.size
            if size and size + length > self._batch_bytes:
                piece = chunk.records[first:place]
                self._append(Chunk(chunk.lane, record.offset, piece, record_checksum(piece[-1])), size)
                first, size = place, 0
            size += length
        self._append(chunk._replace(records=chunk.records[first:]) if first else chunk, size)

    def _append(self, chunk: Chunk, size: int) -> None:
        self._chunks.append((chunk, size))
        self.records += len(chunk.records)
        self.bytes += size

    def take(self) -> list[Chunk]:
        """Remove and return the next batch: whole chunks, until it is full."""
        taken: list[Chunk] = []
        records = size = 0
        while self._chunks and records < self._batch and size < self._batch_bytes:
            chunk, held = self._chunks.popleft()
            taken.append(chunk)
            records += len(chunk.records)
            size += held
        self.records -= records
        self.bytes -= size
        return taken

    def clear(self) -> None:
        """Drop everything; the next owner of the lanes fetches it again."""
        self._chunks.clear()
        self.records = self.bytes = 0
