# ruff: noqa: SLF001 - aiokafka has no other way in
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportAttributeAccessIssue=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateImportUsage=false
"""Reads records whose header names are no UTF-8, on which aiokafka gives up: one would stop its reader for good.

Slower than aiokafka's own reading, which is C, so it takes over only in a process that has met such a record.
"""

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

_NEWEST = 2
"""The first format that knows headers."""


def read_leniently() -> None:
    """Have all consumers of this process read, from now on, what is no UTF-8 as lone surrogates."""
    fetcher.MemoryRecords = _Records


class _Records(_MemoryRecordsPy):  # pyright: ignore[reportGeneralTypeIssues] - final for aiokafka's own compiler only
    def next_batch(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Give the next batch, the newest format by a reader of ours."""
        piece = self._next_slice
        batch = super().next_batch()
        if piece is None or piece[self.MAGIC_OFFSET] < _NEWEST:
            return batch
        return _Batch(_DefaultRecordBatchPy(piece))


class _Batch:
    """aiokafka's batch in Python, its checksum taken before its bytes are unpacked."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self._valid = batch.validate_crc()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def validate_crc(self) -> bool:
        """Say whether the bytes are as they were sent."""
        return self._valid

    def __next__(self) -> Any:
        """Return the record of a control batch, which aiokafka reads so."""
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        self._batch._maybe_uncompress()
        self._batch._buffer = _Bytes(self._batch._buffer)
        return iter(self._batch)


class _Bytes(bytearray):
    """Bytes whose parts can always be read as text."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _Bytes(found) if isinstance(place, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> str:
        return super().decode(encoding, errors)
