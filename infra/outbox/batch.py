"""Batches: the records of one or more polls that one transaction handles, and the inbox that collects them."""

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from tradesaga.infra.kafka.codec import Record, RecordChecksum, record_checksum
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.processor import Received


class ConflictsError(Exception):
    """Every attempt to commit a batch ended in a conflict; a smaller batch may succeed."""


class Chunk(NamedTuple):
    """Records of one poll of one partition, in order, and the offset after the last record polled.

    `last` identifies that record; None where there is none.
    """

    lane: Lane
    following: int
    records: Sequence[Record]
    last: RecordChecksum | None = None

    def split(self, count: int) -> "tuple[Chunk, Chunk]":
        """Return a chunk of the first `count` records and one of the rest; neither may be empty."""
        head, tail = self.records[:count], self.records[count:]
        return Chunk(self.lane, tail[0].offset, head, record_checksum(head[-1])), self._replace(records=tail)


Batch = Sequence[Chunk]
"""Chunks in the order of their polls; several may belong to one lane."""


def received(batch: Batch) -> list[Received]:
    """Return the records with the lanes they arrived on."""
    return [Received(chunk.lane.id, record) for chunk in batch for record in chunk.records]


def count_records(batch: Batch) -> int:
    """Return the number of records."""
    return sum(len(chunk.records) for chunk in batch)


def offsets(batch: Batch) -> dict[int, int]:
    """Return, by lane id, the offset at which each lane continues after the batch."""
    return {chunk.lane.id: chunk.following for chunk in batch}


def last_seen(batch: Batch) -> dict[int, RecordChecksum]:
    """Return the last record of each lane, by lane id."""
    return {chunk.lane.id: chunk.last for chunk in batch if chunk.last is not None}


def halve(batch: Batch) -> tuple[Batch, Batch] | None:
    """Split a batch into two with the same records in the same order; None for a batch of at most one record."""
    count = count_records(batch)
    if count < 2:  # noqa: PLR2004 - two halves
        return None
    first: list[Chunk] = []
    second: list[Chunk] = []
    left = count // 2
    for chunk in batch:
        if left >= len(chunk.records):
            first.append(chunk)
        elif left <= 0:
            second.append(chunk)
        else:
            head, tail = chunk.split(left)
            first.append(head)
            second.append(tail)
        left -= len(chunk.records)
    return first, second


BATCHES: Final = 4
"""Number of batches at which fetching pauses."""
BYTES_LIMIT: Final = 32 * 1024 * 1024
"""Bytes at which fetching pauses; one poll may still add half a megabyte for each partition."""
BATCH_BYTES: Final = 8 * 1024 * 1024
"""Bytes at which a batch is full, however few its records."""


class Inbox:
    """Fetched chunks, in the order of their polls."""

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
        """Add the records of one poll of one partition; a chunk with more bytes than a batch is split."""
        first = size = 0
        rest = chunk
        for index, record in enumerate(chunk.records):
            length = record.size
            if size and size + length > self._batch_bytes:
                head, rest = rest.split(index - first)
                self._append(head, size)
                first, size = index, 0
            size += length
        self._append(rest, size)

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
        """Drop all chunks; the next owner of the lanes fetches the records again."""
        self._chunks.clear()
        self.records = self.bytes = 0
