"""Reads one log of an export into its check: records and proofs by leaf, then sagas."""

from collections.abc import Callable
from typing import Final, Generic, TypeVar
from uuid import UUID

from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.folder import ExportFolder
from tradesaga.consumers.audit.export.layout import FormatError, Line, SagaHead
from tradesaga.consumers.audit.export.manifest import Log, Manifest
from tradesaga.consumers.audit.log.log_check import LogCheck, Report, Verdict
from tradesaga.infra.audit_log.merkle import Subtree

T = TypeVar("T")
LogName = tuple[str, int]
_WRONG: Final = 1000
"""The maximum number of unreadable lines of one file."""


class LineReader(Generic[T]):
    """The parsed lines of one file; unreadable lines are reported and skipped."""

    def __init__(
        self,
        report: Report,
        folder: ExportFolder,
        name: str,
        read: Callable[[bytes], T],
        place_of: Callable[[T], LogName],
    ) -> None:
        self._report = report
        self._name = name
        self._read = read
        self._place_of = place_of
        self._lines = folder.lines(name)
        self._wrong = 0
        self.number = 0
        self.next: T | None = None
        self.place: LogName | None = None
        self.advance()

    def advance(self) -> None:
        """Advance to the next readable line."""
        self.next = self.place = None
        try:
            for number, line in self._lines:
                self.number = number
                if self._take(line):
                    return
        except FormatError as error:
            self._report.add(Verdict.INCOMPLETE, self._name, f"{error}; what follows is not read")

    def _take(self, line: bytes) -> bool:
        try:
            self.next = self._read(line)
            self.place = self._place_of(self.next)
        except FormatError as error:
            self._wrong += 1
            if self._wrong > _WRONG:
                raise FormatError(f"more than {_WRONG:,} lines cannot be read") from error
            self._report.add(Verdict.ALTERED, f"{self._name} line {self.number}", str(error))
            return False
        return True

    def finish(self) -> None:
        """Report the remaining lines: they are of no log of the export, or out of order."""
        left = 0
        where = f"{self._name} line {self.number}"
        place = self.place
        while self.next is not None:
            left += 1
            self.advance()
        if left and place is not None:
            first = f"{place[0][:200]}[{place[1]}]"
            what = f"{left:,} lines are of no log of the manifest, or out of order; the first of {first}"
            self._report.add(Verdict.ALTERED, where, what)


_EVERY: Final = 2000


class LogReader:
    """Reads one log of the manifest and passes it to `check`."""

    def __init__(
        self, report: Report, manifest: Manifest, log: Log, check: LogCheck, progress: Callable[[int], None]
    ) -> None:
        self._report = report
        self._query = manifest.query
        self._log = log
        self._check = check
        self._progress = progress
        self._place: LogName = (log.topic, log.partition)
        self._first: Line | None = None
        self._last: Line | None = None
        self._records = 0
        self._shifted = False

    def read(
        self, events: LineReader[Line], proofs: LineReader[tuple[LogName, Subtree]], sagas: LineReader[SagaHead]
    ) -> None:
        """Read the log's part of the three files, which are positioned at its beginning."""
        while self._place in {events.place, proofs.place}:
            self._step(events, proofs)
        self._check_span()
        self._check_sagas(sagas)
        self._check.finish()

    def _step(self, events: LineReader[Line], proofs: LineReader[tuple[LogName, Subtree]]) -> None:
        """Read the next leaves: a proof's subtree, or a record."""
        size = self._check.size
        if proofs.place == self._place and proofs.next is not None:
            subtree = proofs.next[1]
            if subtree.start == size or events.place != self._place:
                self._skip(subtree, f"{layout.PROOFS} line {proofs.number}")
                proofs.advance()
                return
        if events.next is not None:
            self._take(events.next, f"{layout.EVENTS} line {events.number}")
            events.advance()

    def _skip(self, subtree: Subtree, where: str) -> None:
        if self._query.whole and self._first is not None and self._query.to_ms is None:
            self._report.add(Verdict.INCOMPLETE, where, "records of a whole log are left out")
        if subtree.start != self._check.size:
            what = f"the proof begins at leaf {subtree.start}, where leaf {self._check.size} is next"
            self._report.add(Verdict.ALTERED, where, what)
            return
        try:
            self._check.skip(subtree)
        except ValueError as error:
            self._report.add(Verdict.ALTERED, where, f"the proof does not fit: {error}")

    def _take(self, line: Line, where: str) -> None:
        if line.leaf != self._check.size and not self._shifted:
            self._shifted = True  # from here on all leaves are
            what = f"{self._place[0]}[{self._place[1]}]: leaf {line.leaf} comes where {self._check.size} is next"
            verdict = Verdict.INCOMPLETE if line.leaf > self._check.size else Verdict.ALTERED
            self._report.add(verdict, where, what)
        if self._last is not None and self._query.whole and line.leaf != self._last.leaf + 1 and not self._shifted:
            self._report.add(Verdict.INCOMPLETE, where, f"leaves {self._last.leaf + 1} to {line.leaf - 1} are left out")
        if line.previous is not None and self._query.from_ms is None and not self._log.retired:
            self._report.add(Verdict.ALTERED, where, "it refers to a record before the export, which has no start time")
        self._check.take(line.row, line.previous)
        self._first = self._first or line
        self._last = line
        self._records += 1
        if not self._report.rows % _EVERY:
            self._progress(self._report.rows)

    def _check_span(self) -> None:
        """Check that the records are those of the manifest, and cover the range of the query."""
        log, first, last = self._log, self._first, self._last
        where = log.origin
        if first is None or last is None:
            if log.records == 0 and self._query.whole and log.retired == self._check.size == log.size:
                return
            self._report.add(Verdict.INCOMPLETE, where, f"none of its {log.records} records is here")
            return
        said = (log.records, log.first_leaf, log.last_leaf, log.first_offset, log.last_offset, log.size)
        there = (
            self._records, first.leaf, last.leaf, first.row.record.offset, last.row.record.offset, self._check.size,
        )  # fmt: skip
        if said != there:
            what = f"records, leaves and offsets are {there}; the manifest knows {said}"
            self._report.add(Verdict.INCOMPLETE, where, what)
        if self._query.whole:
            self._check_window(first, last)

    def _check_window(self, first: Line, last: Line) -> None:
        begins, ends = self._query.from_ms, self._query.to_ms
        if first.leaf != self._log.retired and (begins is None or first.row.record.recorded_ms >= begins):
            what = f"it begins with leaf {first.leaf}, and nothing shows that none before it was asked for"
            self._report.add(Verdict.INCOMPLETE, self._log.origin, what)
        if last.leaf + 1 != self._check.size and (ends is None or last.row.record.recorded_ms < ends):
            what = f"it ends with leaf {last.leaf}, and nothing shows that none after it was asked for"
            self._report.add(Verdict.INCOMPLETE, self._log.origin, what)

    def _check_sagas(self, sagas: LineReader[SagaHead]) -> None:
        """Compare the last record of each saga with its line."""
        before: UUID | None = None
        while sagas.place == self._place and sagas.next is not None:
            saga = sagas.next
            if before is not None and saga.saga_id <= before:
                self._report.add(Verdict.ALTERED, f"{layout.SAGAS} line {sagas.number}", "a saga is out of order")
            before = saga.saga_id
            self._check_saga(saga)
            sagas.advance()
        for saga_id in self._check.heads:
            self._report.add(Verdict.INCOMPLETE, f"saga {saga_id}", f"it has no line in {layout.SAGAS}")

    def _check_saga(self, saga: SagaHead) -> None:
        where = f"saga {saga.saga_id}"
        found = self._check.heads.take(saga.saga_id)
        if found is None:
            self._report.add(Verdict.INCOMPLETE, where, "not one of its records is here")
        elif found[0] == saga.seq:
            if found[1] != saga.head:
                self._report.add(Verdict.ALTERED, where, "its last record is not the one that its line knows")
        elif found[0] > saga.seq:
            self._report.add(Verdict.ALTERED, where, f"its line knows {saga.seq} records, {found[0]} are here")
        elif self._query.to_ms is None and not self._log.not_yet_sealed:
            self._report.add(Verdict.INCOMPLETE, where, f"its line knows {saga.seq} records, {found[0]} are here")
