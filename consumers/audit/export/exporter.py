"""Writes an export log by log and page by page, in constant memory.

Records that are left out are represented by the roots of the fewest subtrees that contain them, so that an examiner can
compute the signed tree, which proves each record. Nothing is exported that does not match its seal.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import UUID

import asyncpg

from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.folder import FreshFolder
from tradesaga.consumers.audit.export.layout import Line, describe_saga, to_line, to_proof, write_line
from tradesaga.consumers.audit.export.manifest import Log
from tradesaga.consumers.audit.export.orders import OrderSheet
from tradesaga.consumers.audit.export.retired import RetiredRecords
from tradesaga.consumers.audit.export.source import PAGE, SealedLog, Seals, Source
from tradesaga.consumers.audit.log.log_check import Begin, Report
from tradesaga.consumers.audit.log.rows import Row, to_row
from tradesaga.infra.audit_log.checkpoint import Checkpoint, Origin, hash_note
from tradesaga.infra.audit_log.merkle import Frontier, SubtreeRange, hash_leaf
from tradesaga.infra.errors import CommandError

_GAPS: Final = 1000
_TYPES: Final = 10_000


class RowWriter(Protocol):
    """Another form of the records, such as Parquet."""

    def write(self, lines: list[Line]) -> None:
        """Append records."""
        ...


@dataclass
class Exporter:
    """An export in progress, with its counts. `advance` is called with the number of records read."""

    source: Source
    folder: FreshFolder
    seals: Seals
    retired: RetiredRecords
    orders: OrderSheet
    further: RowWriter | None
    advance: Callable[[int], None]
    logs: list[Log] = field(default_factory=list[Log])
    records: int = 0
    sagas: int = 0
    types: Counter[str] = field(default_factory=Counter[str])

    async def export_log(self, log: SealedLog) -> None:
        """Write the wanted records of one log. Raises `CommandError` if the log does not match its seal."""
        checkpoint = self.seals.open(log.note)
        bounds = await self.source.bounds(log, checkpoint.next_offset)
        if bounds is None and not self.source.query.whole:
            return
        begin = await self.retired.ranges.begin(
            self.source.sql, Report(), Origin.parse(checkpoint.origin), await self.source.first(log)
        )
        first, last = bounds or (checkpoint.next_offset, checkpoint.next_offset - 1)
        writing = _LogWriting(self, log, checkpoint, (first, last))
        if begin is not None:
            writing.begin(begin)
        if self.source.query.whole:
            await writing.skip(self.source.hashes(log, 0, first - 1))
            await writing.keep(self.source.rows(log, first, last))
            await writing.skip(self.source.hashes(log, last + 1, checkpoint.next_offset - 1))
        else:
            rows, hashes = self.source.rows(log, first, last), self.source.hashes(log, 0, checkpoint.next_offset - 1)
            await writing.pick(rows, hashes)
        unsealed = await self.source.unsealed(log, checkpoint.next_offset)
        self.logs.append(writing.finish(unsealed))
        await self.seals.write(self.folder.file(layout.CHECKPOINTS), self.source, log, writing.first_leaf)
        await self._export_sagas(log, first, last)

    async def _export_sagas(self, log: SealedLog, first: int, last: int) -> None:
        file = self.folder.file(layout.SAGAS)
        async for page in self.source.sagas(log, first, last):
            file.write(b"".join(write_line(describe_saga(log.place, row)) for row in page))
            self.sagas += len(page)
            await self.orders.add(self.source, log, (first, last), page)


@dataclass
class _LogWriting:
    """Writes one log; `span` is the first and last wanted offset."""

    exporter: Exporter
    log: SealedLog
    checkpoint: Checkpoint
    span: tuple[int, int]
    frontier: Frontier = field(default_factory=Frontier.empty)
    left_out: SubtreeRange = field(default_factory=SubtreeRange)
    leaf: int = 0
    next_offset: int = -1
    retired: int = 0
    heads: Mapping[tuple[UUID, int], bytes] = field(default_factory=dict[tuple[UUID, int], bytes])
    gaps: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    records: int = 0
    first: tuple[int, int] | None = None
    last: tuple[int, int] = (0, 0)
    """Leaf and offset of the first and the last record."""

    @property
    def first_leaf(self) -> int:
        """The leaf of the first record."""
        return self.first[0] if self.first is not None else 0

    def begin(self, begin: Begin) -> None:
        """Begin after the retired records."""
        self.retired = self.leaf = begin.frontier.size
        self.left_out.subtrees = begin.frontier.subtrees()
        self.next_offset = begin.next_offset
        self.heads = {(saga_id, seq): found for saga_id, (seq, found) in begin.heads.items()}

    async def skip(self, pages: AsyncIterator[list[asyncpg.Record]]) -> None:
        """Leave out records, given by offset, hash and skipped offsets."""
        async for page in pages:
            for offset, found, skipped in page:
                self._pass(offset, found, skipped)
            self.exporter.advance(len(page))

    async def keep(self, pages: AsyncIterator[list[asyncpg.Record]]) -> None:
        """Write records."""
        async for page in pages:
            await self._write([to_row(row) for row in page])
            self.exporter.advance(len(page))

    async def pick(
        self, rows: AsyncIterator[list[asyncpg.Record]], hashes: AsyncIterator[list[asyncpg.Record]]
    ) -> None:
        """Write `rows` and leave out the others of all records, which are given as for `skip`."""
        coming = (row async for page in rows for row in page)
        wanted = await anext(coming, None)
        chosen: list[Row] = []
        async for page in hashes:
            for offset, found, skipped in page:
                if wanted is None or wanted["offset"] != offset:
                    if chosen:
                        await self._write(chosen)
                        chosen = []
                    self._pass(offset, found, skipped)
                    continue
                chosen.append(to_row(wanted))
                if len(chosen) == PAGE:
                    await self._write(chosen)
                    chosen = []
                wanted = await anext(coming, None)
            self.exporter.advance(len(page))
        await self._write(chosen)

    def _pass(self, offset: int, found: bytes, skipped: int) -> None:
        self._follow(offset, skipped)
        self.left_out.append(self.leaf, hash_leaf(found))
        self.leaf += 1

    async def _write(self, rows: list[Row]) -> None:
        if not rows:
            return
        self._append_subtrees()
        previous = await self._before(rows)
        lines: list[Line] = []
        for row in rows:
            self._follow(row.record.offset, row.record.skipped)
            lines.append(Line(row, self.leaf, previous.get(row.record.offset)))
            self.frontier.append(hash_leaf(row.hash))
            self.leaf += 1
            self._count(row, lines[-1].leaf)
        self.exporter.folder.file(layout.EVENTS).write(b"".join([to_line(line) for line in lines]))
        if self.exporter.further is not None:
            self.exporter.further.write(lines)

    async def _before(self, rows: list[Row]) -> dict[int, bytes]:
        """Return, by offset, the hash of the saga's previous record where that one is not in the export."""
        source = self.exporter.source
        if source.query.from_ms is None and not self.heads:
            return {}
        asked = {(row.saga_id, row.seq - 1): row.record.offset for row in rows if row.saga_id and row.seq}
        found = {record: self.heads[record] for record in asked if record in self.heads}
        if source.query.from_ms is not None:
            found |= await source.before(self.log, self.span, list(asked))
        return {asked[record]: found[record] for record in found}

    def _count(self, row: Row, leaf: int) -> None:
        exporter, offset = self.exporter, row.record.offset
        exporter.records += 1
        self.records += 1
        self.last = (leaf, offset)
        self.first = self.first or (leaf, offset)
        if row.event_type is not None and (row.event_type in exporter.types or len(exporter.types) < _TYPES):
            exporter.types[row.event_type] += 1

    def _follow(self, offset: int, skipped: int) -> None:
        if self.next_offset not in {-1, offset - skipped}:
            self.gaps.append((self.next_offset, offset - skipped - 1))
        self.next_offset = offset + 1

    def _append_subtrees(self) -> None:
        subtrees = self.left_out.take()
        if not subtrees:
            return
        file = self.exporter.folder.file(layout.PROOFS)
        file.write(b"".join(to_proof(*self.log.place, subtree) for subtree in subtrees))
        for subtree in subtrees:
            self.frontier.append_subtree(subtree.level, subtree.root)

    def finish(self, unsealed: int) -> Log:
        """Compare the tree with its seal; return the log's part of the manifest. Raises `CommandError`."""
        self._append_subtrees()
        due = self.checkpoint
        if self.frontier.size != due.size:
            raise _broken(due.origin, f"{due.size} of its records were sealed, {self.frontier.size} are there")
        if self.frontier.root() != due.root:
            raise _broken(due.origin, f"its first {due.size} records are not those that were sealed")
        first_leaf, first_offset = self.first or (0, 0)
        return Log(
            origin=str(Origin.parse(due.origin)),
            topic=self.log.topic,
            partition=self.log.partition,
            records=self.records,
            first_leaf=first_leaf,
            last_leaf=self.last[0],
            first_offset=first_offset,
            last_offset=self.last[1],
            size=due.size,
            checkpoint=hash_note(self.log.note),
            not_yet_sealed=unsealed,
            retired=self.retired,
            gaps=tuple(self.gaps[:_GAPS]),
            further_gaps=max(0, len(self.gaps) - _GAPS),
        )


def _broken(origin: str, what: str) -> CommandError:
    do = "see what is wrong with `tradesaga audit verify`; what does not fit its seal is not exported"
    return CommandError("audit-altered", what, origin, do)
