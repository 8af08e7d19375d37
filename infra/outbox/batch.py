"""A batch: the records of some polls that one transaction handles; a batch that keeps conflicting is halved."""

from collections.abc import Sequence
from typing import NamedTuple

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


Batch = Sequence[Chunk]
"""Chunks in the order of their polls; several may belong to one lane."""


def received(batch: Batch) -> list[Received]:
    """Return the records with the lanes they arrived on."""
    return [Received(chunk.lane.id, record) for chunk in batch for record in chunk.records]


def offsets(batch: Batch) -> dict[int, int]:
    """Return, by lane id, the offset at which each lane continues after the batch."""
    return {chunk.lane.id: chunk.following for chunk in batch}


def last_seen(batch: Batch) -> dict[int, RecordChecksum]:
    """Return the last record of each lane, by lane id."""
    return {chunk.lane.id: chunk.last for chunk in batch if chunk.last is not None}


def halve(batch: Batch) -> tuple[Batch, Batch] | None:
    """Split a batch into two with the same records in the same order; None for a batch of at most one record."""
    count = sum(len(chunk.records) for chunk in batch)
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
            first.append(
                Chunk(
                    chunk.lane,
                    chunk.records[left].offset,
                    chunk.records[:left],
                    record_checksum(chunk.records[left - 1]),
                )
            )
            second.append(Chunk(chunk.lane, chunk.following, chunk.records[left:], chunk.last))
        left -= len(chunk.records)
    return first, second
