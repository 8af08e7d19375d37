"""Makes an export: log by log, a page of records at a time, so that memory does not grow with their number.

Records that are not wanted stand in the export as the roots of the fewest subtrees that hold them, so that whoever has
the export can compute the very tree that was signed: that proves each record to be in it. Nothing is written that does
not fit its seal.
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
from tradesaga.consumers.audit.export.retired import RetiredRecords, subtrees_of
from tradesaga.consumers.audit.export.source import PAGE, Sealed, Seals, Source
from tradesaga.consumers.audit.log.log_check import Begin
from tradesaga.consumers.audit.log.rows import Row, to_row
from tradesaga.infra.audit_log.checkpoint import Checkpoint, Origin, hash_note
from tradesaga.infra.audit_log.merkle import Frontier, SubtreeRange, hash_leaf
from tradesaga.infra.errors import CommandError

_GAPS: Final = 1000
_TYPES: Final = 10_000


class RowWriter(Protocol):
    """A further form of the records."""

    def write(self, lines: list[Line]) -> None:
        """Append records."""
        ...


@dataclass
class Exporter:
    """One export under way: what it has counted. `advance` is told the number of records that were looked at."""

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

    async def export_log(self, log: Sealed) -> None:
        """Write what is wanted of one log. Raises `CommandError` where the audit log does not fit its seal."""
        checkpoint = self.seals.open(log.note)
        bounds = await self.source.bounds(log, checkpoint.next_offset)
        if bounds is None and not self.source.query.whole:
            return
        begin = await self.retired.begin(Origin.parse(checkpoint.origin), await self.source.first(log))
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

    async def _export_sagas(self, log: Sealed, first: int, last: int) -> None:
        file = self.folder.file(layout.SAGAS)
        async for page in self.source.sagas(log, first, last):
            file.write(b"".join(write_line(describe_saga(log.place, row)) for row in page))
            self.sagas += len(page)
            await self.orders.add(self.source, log, (first, last), page)


class _LogWriting:
    """One log on its way into the export; `span` is the first and last offset of what is wanted."""

    def __init__(self, exporter: Exporter, log: Sealed, checkpoint: Checkpoint, span: tuple[int, int]) -> None:
        self._exporter = exporter
        self._log = log
        self._checkpoint = checkpoint
        self._span = span
        self._frontier = Frontier.empty()
        self._stretch = SubtreeRange()
        self._index = 0
        self._next_offset = -1
        self._retired = 0
        self._heads: Mapping[tuple[UUID, int], bytes] = {}
        self._gaps: list[tuple[int, int]] = []
        self._records = 0
        self._places: tuple[int, int] | None = None
        self._last: tuple[int, int] = (0, 0)

    @property
    def first_leaf(self) -> int:
        """Return the place of the first record in the log's tree."""
        return self._places[0] if self._places is not None else 0

    def begin(self, begin: Begin) -> None:
        """Begin behind what was retired."""
        self._retired = begin.frontier.size
        self._stretch.subtrees = subtrees_of(begin.frontier)
        self._index, self._next_offset = begin.frontier.size, begin.next_offset
        self._heads = {(saga_id, seq): found for saga_id, (seq, found) in begin.heads.items()}

    async def skip(self, pages: AsyncIterator[list[asyncpg.Record]]) -> None:
        """Pass over records, given by offset, hash and skipped offsets."""
        async for page in pages:
            for offset, found, skipped in page:
                self._pass(offset, found, skipped)
            self._exporter.advance(len(page))

    async def keep(self, pages: AsyncIterator[list[asyncpg.Record]]) -> None:
        """Write records."""
        async for page in pages:
            await self._write([to_row(row) for row in page])
            self._exporter.advance(len(page))

    async def pick(
        self, rows: AsyncIterator[list[asyncpg.Record]], hashes: AsyncIterator[list[asyncpg.Record]]
    ) -> None:
        """Write the `rows` that are among all records, and pass over the others, given as `skip` takes them."""
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
            self._exporter.advance(len(page))
        await self._write(chosen)

    def _pass(self, offset: int, found: bytes, skipped: int) -> None:
        self._follow(offset, skipped)
        self._stretch.append(self._index, hash_leaf(found))
        self._index += 1

    async def _write(self, rows: list[Row]) -> None:
        if not rows:
            return
        self._graft()
        previous = await self._before(rows)
        lines: list[Line] = []
        for row in rows:
            self._follow(row.record.offset, row.record.skipped)
            lines.append(Line(row, self._index, previous.get(row.record.offset)))
            self._frontier.append(hash_leaf(row.hash))
            self._index += 1
            self._count(row, lines[-1].leaf)
        self._exporter.folder.file(layout.EVENTS).write(b"".join([to_line(line) for line in lines]))
        if self._exporter.further is not None:
            self._exporter.further.write(lines)

    async def _before(self, rows: list[Row]) -> dict[int, bytes]:
        """Give, by offset, the hash before each record whose saga's record before is not in the export."""
        source = self._exporter.source
        if source.query.from_ms is None and not self._heads:
            return {}
        asked = {(row.saga_id, row.seq - 1): row.record.offset for row in rows if row.saga_id and row.seq}
        found = {record: self._heads[record] for record in asked if record in self._heads}
        if source.query.from_ms is not None:
            found |= await source.before(self._log, self._span, list(asked))
        return {asked[record]: found[record] for record in found}

    def _count(self, row: Row, leaf: int) -> None:
        exporter, offset = self._exporter, row.record.offset
        exporter.records += 1
        self._records += 1
        self._last = (leaf, offset)
        self._places = self._places or (leaf, offset)
        if row.event_type is not None and (row.event_type in exporter.types or len(exporter.types) < _TYPES):
            exporter.types[row.event_type] += 1

    def _follow(self, offset: int, skipped: int) -> None:
        if self._next_offset not in {-1, offset - skipped}:
            self._gaps.append((self._next_offset, offset - skipped - 1))
        self._next_offset = offset + 1

    def _graft(self) -> None:
        subtrees = self._stretch.take()
        if not subtrees:
            return
        file = self._exporter.folder.file(layout.PROOFS)
        file.write(b"".join(to_proof(*self._log.place, subtree) for subtree in subtrees))
        for subtree in subtrees:
            self._frontier.append_subtree(subtree.level, subtree.root)

    def finish(self, unsealed: int) -> Log:
        """Hold the tree against its seal, and give what the manifest says of the log. Raises `CommandError`."""
        self._graft()
        due = self._checkpoint
        if self._frontier.size != due.size:
            raise _broken(due.origin, f"{due.size} of its records were sealed, {self._frontier.size} are there")
        if self._frontier.root() != due.root:
            raise _broken(due.origin, f"its first {due.size} records are not those that were sealed")
        first_leaf, first_offset = self._places or (0, 0)
        return Log(
            origin=str(Origin.parse(due.origin)),
            topic=self._log.topic,
            partition=self._log.partition,
            records=self._records,
            first_leaf=first_leaf,
            last_leaf=self._last[0],
            first_offset=first_offset,
            last_offset=self._last[1],
            size=due.size,
            checkpoint=hash_note(self._log.note),
            not_yet_sealed=unsealed,
            retired=self._retired,
            gaps=tuple(self._gaps[:_GAPS]),
            further_gaps=max(0, len(self._gaps) - _GAPS),
        )


def _broken(origin: str, what: str) -> CommandError:
    do = "see what is wrong with `tradesaga audit verify`; what does not fit its seal is not exported"
    return CommandError("audit-altered", what, origin, do)
