# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false
"""The records of an export as Parquet, if pyarrow is installed: `pip install 'tradesaga[parquet]'`."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tradesaga.consumers.audit.export.layout import Line
from tradesaga.infra.errors import unavailable

_ROWS: Final = 10_000
"""Records per row group."""


class ParquetFile:
    """`events.parquet`: the members of a record's line as columns with Parquet's types."""

    def __init__(self, path: Path, arrow: Any) -> None:
        self._path = path
        self._arrow = arrow
        self._schema = _schema(arrow)
        self._waiting: list[Line] = []
        parquet = importlib.import_module("pyarrow.parquet")
        self._writer = parquet.ParquetWriter(str(path), self._schema, compression="zstd")

    @classmethod
    def open(cls, path: Path) -> "ParquetFile | None":
        """Open a new file; return None if pyarrow is not installed."""
        try:
            arrow = importlib.import_module("pyarrow")
        except ImportError:
            return None
        return cls(path, arrow)

    def write(self, lines: list[Line]) -> None:
        """Append records."""
        self._waiting += lines
        if len(self._waiting) >= _ROWS:
            self._flush()

    def close(self) -> None:
        """Write the remaining records and close the file."""
        self._flush()
        try:
            self._writer.close()
        except OSError as error:
            raise self._full(error) from error

    def abandon(self) -> None:
        """Close the file, which is about to be removed."""
        if self._writer.is_open:
            self._writer.close()

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = self._arrow.Table.from_arrays(_arrays(self._arrow, self._schema, self._waiting), schema=self._schema)
        self._waiting = []
        try:
            self._writer.write_table(table)
        except OSError as error:
            raise self._full(error) from error

    def _full(self, error: OSError) -> Exception:
        do = "free some space there, or name another folder with --out; nothing was left behind"
        return unavailable("export-unwritable", f"the export cannot be written: {error}", str(self._path), do)


def _schema(arrow: Any) -> Any:
    text, shared = arrow.string(), arrow.dictionary(arrow.int32(), arrow.string())
    moment = arrow.timestamp("ns", tz="UTC")
    fields = [
        ("topic", shared, False), ("partition", arrow.int32(), False), ("offset", arrow.int64(), False),
        ("leaf", arrow.int64(), False), ("recorded", arrow.timestamp("ms", tz="UTC"), False), ("saga_id", text, True),
        ("seq", arrow.int32(), True), ("event_type", shared, True), ("step", shared, True),
        ("event_time", moment, True), ("started", moment, True), ("context_added", shared, True), ("error", text, True),
        ("headers", text, False), ("key", arrow.binary(), True), ("skipped", arrow.int64(), True),
        ("value", arrow.binary(), True), ("hash", arrow.binary(), False), ("previous", arrow.binary(), True),
    ]  # fmt: skip
    return arrow.schema([arrow.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


def _arrays(arrow: Any, schema: Any, lines: Sequence[Line]) -> list[Any]:
    rows = [line.row for line in lines]
    records = [row.record for row in rows]
    columns: list[list[Any]] = [
        [record.topic for record in records],
        [record.partition for record in records],
        [record.offset for record in records],
        [line.leaf for line in lines],
        [record.recorded_ms for record in records],
        [str(row.saga_id) if row.saga_id is not None else None for row in rows],
        [row.seq for row in rows],
        [row.event_type for row in rows],
        [row.step for row in rows],
        [row.time for row in rows],
        [row.started for row in rows],
        [row.added for row in rows],
        [row.error for row in rows],
        [row.stored.headers for row in rows],
        [row.stored.key for row in rows],
        [row.stored.skipped for row in rows],
        [row.stored.value for row in rows],
        [row.hash for row in rows],
        [line.previous for line in lines],
    ]
    return [arrow.array(column, type=each.type) for column, each in zip(columns, schema, strict=True)]
