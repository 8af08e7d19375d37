# ruff: noqa: SLF001 - aiokafka has no other way in
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportAttributeAccessIssue=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateImportUsage=false
"""Reads records whose header names are not UTF-8; with aiokafka alone, one would stop its reader for good.

Slower than aiokafka's parser, which is C, so it is enabled only in a process that has received such a record.
"""

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

_NEWEST = 2
"""The first record format with headers."""


def read_leniently() -> None:
    """From now on, decode header names that are not UTF-8 with lone surrogates, in all consumers of this process."""
    fetcher.MemoryRecords = _Records


class _Records(_MemoryRecordsPy):  # pyright: ignore[reportGeneralTypeIssues] - final for aiokafka's own compiler only
    def next_batch(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the next batch; the newest format is read by `_Batch`."""
        piece = self._next_slice
        batch = super().next_batch()
        if piece is None or piece[self.MAGIC_OFFSET] < _NEWEST:
            return batch
        return _Batch(_DefaultRecordBatchPy(piece))


class _Batch:
    """aiokafka's Python batch; its checksum is validated before its bytes are decompressed."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self._valid = batch.validate_crc()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def validate_crc(self) -> bool:
        """Return whether the checksum is valid."""
        return self._valid

    def __next__(self) -> Any:
        """Return the record of a control batch."""
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        self._batch._maybe_uncompress()
        self._batch._buffer = _Bytes(self._batch._buffer)
        return iter(self._batch)


class _Bytes(bytearray):
    """Bytes whose slices can always be decoded."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _Bytes(found) if isinstance(place, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> str:
        return super().decode(encoding, errors)
