"""The check of one log: each row against its bytes, and the Merkle tree of the rows against the signed checkpoints.

Each row is hashed again from its bytes, and its other columns must follow from these. The tree over the new hashes must
have the signed roots: an attacker who rewrites rows and hashes cannot sign. Removed rows show as gaps in the offsets,
which are allowed only where a row's hash covers them as left by transactions; removed checkpoints show in the witness.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

import orjson

from tradesaga.consumers.audit.log.rows import Row
from tradesaga.consumers.saga_log.chain import FORMAT, format_of, hash_row
from tradesaga.consumers.saga_log.fold import describe
from tradesaga.consumers.saga_log.reading import read_saga
from tradesaga.infra.audit_log.checkpoint import Checkpoint, Origin, hash_note
from tradesaga.infra.audit_log.merkle import Frontier, Subtree, hash_leaf
from tradesaga.infra.audit_log.note import NoteError, Verifier, open_note
from tradesaga.infra.clock import read_id
from tradesaga.infra.kafka.codec import load_headers
from tradesaga.infra.reconciliation.facts import FactCheck
from tradesaga.schemas.envelope import SAGA_ID

LIMIT: Final = 200_000
"""The maximum number of heads in memory; beyond it, all are moved to disk."""

_TABLE: Final = "CREATE TABLE head (saga_id TEXT PRIMARY KEY, seq INTEGER, hash BLOB) WITHOUT ROWID"

_PUT: Final = "INSERT OR REPLACE INTO head VALUES (?, ?, ?)"

_GET: Final = "SELECT seq, hash FROM head WHERE saga_id = ?"

_DELETE: Final = "DELETE FROM head WHERE saga_id = ?"

_ALL: Final = "SELECT saga_id FROM head"

Head = tuple[int, bytes]
"""The number of records in a saga's chain, and the hash of the last one."""


class ChainHeads:
    """The head of each saga's chain, in memory or on disk."""

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
            self._move_to_disk()

    def take(self, saga_id: UUID) -> Head | None:
        """Remove and return a saga's head."""
        found = self.get(saga_id)
        self._recent.pop(saga_id, None)
        if self._disk is not None:
            self._disk.execute(_DELETE, (str(saga_id),))
        return found

    def __iter__(self) -> Iterator[UUID]:
        """Yield the ids of all sagas."""
        yield from self._recent
        if self._disk is not None:
            for (text,) in self._disk.execute(_ALL):
                if (saga_id := read_id(text)) not in self._recent:
                    yield saga_id

    def close(self) -> None:
        """Remove all heads."""
        self._recent.clear()
        if self._disk is not None:
            self._disk.close()
            self._disk = None

    def _move_to_disk(self) -> None:
        if self._disk is None:
            self._disk = sqlite3.connect("", isolation_level=None)
            self._disk.execute(_TABLE)
        self._disk.execute("BEGIN")
        self._disk.executemany(_PUT, ((str(saga_id), *head) for saga_id, head in self._recent.items()))
        self._disk.execute("COMMIT")
        self._recent.clear()


FINDINGS: Final = 100
"""The maximum number of findings that are listed; further ones are counted."""


class Verdict(StrEnum):
    """Which property of the log a finding contradicts."""

    ALTERED = "altered"
    INCOMPLETE = "incomplete"


class Finding(NamedTuple):
    """A deviation and its place."""

    verdict: Verdict
    where: str
    what: str


class Begin(NamedTuple):
    """Where a log continues after its retired records: the tree's frontier, the next offset, and the sagas' heads."""

    frontier: Frontier
    next_offset: int
    heads: Mapping[UUID, tuple[int, bytes]]


@dataclass(frozen=True)
class Retired:
    """Records that an operator retired by a signed action; `offsets` has the first offset of each log after them."""

    number: int
    at: int
    operator: str
    reason: str
    records: int
    offsets: Mapping[str, int]


@dataclass
class Report:
    """The result of a verification; counts are of rows, checkpoints and logs.

    Payloads of none of the `types`, or that are no JSON object, count as unreadable, which is no fault of the log.
    `facts` has the facts that no row of a service confirms, None if that was not checked; the log has recorded such
    facts as they came.
    """

    findings: list[Finding] = field(default_factory=list[Finding])
    broken: set[Verdict] = field(default_factory=set[Verdict])
    retired: list[Retired] = field(default_factory=list[Retired])
    further: int = 0
    rows: int = 0
    checkpoints: int = 0
    logs: int = 0
    unsealed: int = 0
    unreadable: int = 0
    types: frozenset[str] | None = None
    remarks: list[str] = field(default_factory=list[str])
    facts: FactCheck | None = None

    def add(self, verdict: Verdict, where: str, what: str) -> None:
        """Add a finding."""
        self.broken.add(verdict)
        if len(self.findings) < FINDINGS:
            self.findings.append(Finding(verdict, where, what))
        else:
            self.further += 1

    def holds(self, verdict: Verdict) -> bool:
        """Return whether no finding contradicts this property."""
        return verdict not in self.broken


Checkpoints = dict[str, dict[int, tuple[Checkpoint, str]]]
"""Checkpoints with their notes, by origin and size."""


def read_notes(report: Report, where: str, notes: Iterable[str], trusted: Mapping[bytes, Verifier]) -> Checkpoints:
    """Return the checkpoints signed by a trusted key, with their notes, by origin and size; report all others."""
    found: Checkpoints = {}
    for note in notes:
        try:
            checkpoint = Checkpoint.parse(open_note(note, trusted)[0])
            Origin.parse(checkpoint.origin)
        except NoteError as error:
            report.add(Verdict.ALTERED, where, f"a checkpoint is invalid: {error}")
            continue
        known = found.setdefault(checkpoint.origin, {})
        if checkpoint.size in known and known[checkpoint.size][0].root != checkpoint.root:
            what = f"two checkpoints of {checkpoint.size} records contradict each other"
            report.add(Verdict.ALTERED, checkpoint.origin, what)
        known.setdefault(checkpoint.size, (checkpoint, note))
    return found


def merge_checkpoints(report: Report, known: Checkpoints, where: str, found: Checkpoints) -> None:
    """Add the checkpoints of a source to the known ones; report those with another root."""
    for origin, sizes in found.items():
        mine = known.setdefault(origin, {})
        for size, signed in sizes.items():
            if mine.setdefault(size, signed)[0].root != signed[0].root:
                report.add(Verdict.ALTERED, origin, f"{where} has another root of its first {size} records")


def by_size(checkpoints: Mapping[int, tuple[Checkpoint, str]]) -> dict[int, Checkpoint]:
    """Return checkpoints by size, without their notes."""
    return {size: checkpoint for size, (checkpoint, _) in checkpoints.items()}


def check_chain(report: Report, checkpoints: Mapping[int, tuple[Checkpoint, str]]) -> None:
    """Check that each checkpoint of one log, by size, refers to the one before."""
    before = ""
    for _, (checkpoint, note) in sorted(checkpoints.items()):
        if checkpoint.previous != before:
            where = f"{checkpoint.origin} at {checkpoint.size} records"
            report.add(Verdict.INCOMPLETE, where, "a checkpoint before this one is missing")
        before = hash_note(note)


class LogCheck:
    """Checks one log row by row in offset order. `checkpoints` are those of the log, by size.

    It starts with the log's first record, or with `begin` after the retired records.
    """

    def __init__(
        self, report: Report, origin: Origin, checkpoints: Mapping[int, Checkpoint], begin: Begin | None = None
    ) -> None:
        self._report = report
        self._origin = origin
        start = begin or Begin(Frontier.empty(), -1, {})
        self._frontier = start.frontier.copy()
        self._due = sorted(
            (each for each in checkpoints.values() if each.size >= self._frontier.size), key=lambda each: each.size
        )
        self._met = 0
        self._next_offset = start.next_offset
        self._leaves_from = self._read_leaves_from(checkpoints.values())
        self.heads = ChainHeads(start.heads)
        self.agreed = 0
        """The number of checkpoints whose root was confirmed."""
        report.logs += 1
        self._meet()

    def _read_leaves_from(self, checkpoints: Iterable[Checkpoint]) -> int | None:
        """Return the signed offset at which format 2 of the hashes begins, if there is one."""
        stated = {each.leaves_from for each in checkpoints if each.leaves_from is not None}
        if len(stated) > 1:
            what = (
                f"checkpoints say that format 2 of the hashes begins at offsets {', '.join(map(str, sorted(stated)))}"
            )
            self._report.add(Verdict.ALTERED, str(self._origin), what)
        return min(stated, default=None)

    @property
    def size(self) -> int:
        """The number of records so far, skipped ones included."""
        return self._frontier.size

    def skip(self, subtree: Subtree) -> None:
        """Skip records by the root of their subtree. Raises `ValueError` where no such subtree begins."""
        self._frontier.append_subtree(subtree.level, subtree.root)
        self._next_offset = -1
        self._meet()

    def take(self, row: Row, previous: bytes | None = None) -> None:
        """Check the next row; `previous` is the hash of the saga's previous record if that one was skipped."""
        offset = row.record.offset
        if previous is not None and row.saga_id is not None and row.seq and self.heads.get(row.saga_id) is None:
            self.heads.put(row.saga_id, (row.seq - 1, previous))
        self._reach(offset, row.record.skipped)
        self._grow(self._check(row))

    def take_hash(self, offset: int, found: bytes, skipped: int = 0) -> None:
        """Add the next record by the hash of its bytes.

        `skipped` is the number of offsets directly before it that Kafka gives to no consumer.
        """
        self._reach(offset, skipped)
        self._grow(found)

    def _reach(self, offset: int, skipped: int) -> None:
        """Report gaps and repeated offsets before this record; `skipped` offsets before it hold none."""
        following = offset - skipped
        if offset < self._next_offset:
            what = "the offset comes twice: one of the two rows is forged"
            self._report.add(Verdict.ALTERED, self._at(offset), what)
        elif self._next_offset == -1:
            if skipped and not self._frontier.size:
                what = f"the record before it, at offset {following - 1}, is missing"
                self._report.add(Verdict.INCOMPLETE, self._at(offset), what)
        elif following > self._next_offset:
            what = f"offsets {self._next_offset} to {following - 1} are missing"
            self._report.add(Verdict.INCOMPLETE, self._at(self._next_offset), what)
        elif following < self._next_offset:
            what = f"it says that no record lies at offsets {following} to {offset - 1}, where there is one"
            self._report.add(Verdict.ALTERED, self._at(offset), what)
        self._next_offset = offset + 1
        self._report.rows += 1

    def _grow(self, found: bytes) -> None:
        self._frontier.append(hash_leaf(found))
        self._meet()

    def _check(self, row: Row) -> bytes:
        """Return the hash of the row's bytes, and report what in the row differs from them."""
        seq, previous = (self.heads.get(row.saga_id) if row.saga_id is not None else None) or (0, b"")
        counted = row.seq is not None
        self._check_format(row)
        found = hash_row(previous if counted else b"", row.record, row.stored)
        if found != row.hash:
            what = "the record's bytes do not have the hash that was stored"
            self._report.add(Verdict.ALTERED, self._at(row.record.offset), what)
        if row.seq is not None and row.saga_id is not None:
            if row.seq != seq + 1:
                what = f"saga {row.saga_id} has record {row.seq} after {seq}"
                self._report.add(Verdict.INCOMPLETE, self._at(row.record.offset), what)
            self.heads.put(row.saga_id, (row.seq, found))
        if not _follows(row):
            what = "the row's columns do not say what its headers say"
            self._report.add(Verdict.ALTERED, self._at(row.record.offset), what)
        self._report.unreadable += not _reads(row, self._report.types)
        return found

    def _check_format(self, row: Row) -> None:
        """Check the format of the hash: after format 2 has begun, format 1, which covers less, is not allowed."""
        form, offset = format_of(row.hash), row.record.offset
        if self._leaves_from is None and form == FORMAT:
            self._leaves_from = offset
        if self._leaves_from is not None and (form == FORMAT) != (offset >= self._leaves_from):
            what = f"the hash is of format {form}; format 2 begins at offset {self._leaves_from}"
            self._report.add(Verdict.ALTERED, self._at(offset), what)

    def _meet(self) -> None:
        """Compare the tree with the checkpoint of its size, if there is one."""
        while self._met < len(self._due) and self._due[self._met].size <= self._frontier.size:
            due = self._due[self._met]
            self._met += 1
            if due.size != self._frontier.size:
                continue
            if due.root == self._frontier.root():
                self.agreed += 1
            else:
                before = self._due[self._met - 2].size if self._met > 1 else 0
                what = f"records {before + 1} to {due.size} of the log are not those that were sealed at {due.time} ns"
                self._report.add(Verdict.ALTERED, f"{self._origin}", what)

    def finish(self) -> None:
        """Report sealed records that are missing, and records without any checkpoint."""
        for due in self._due[self._met :]:
            what = f"{due.size} records were sealed at {due.time} ns; {self._frontier.size} are there"
            self._report.add(Verdict.INCOMPLETE, str(self._origin), what)
        if not self._due and self._frontier.size:
            what = f"no checkpoint covers its {self._frontier.size} records"
            self._report.add(Verdict.INCOMPLETE, str(self._origin), what)
        self._report.unsealed += max(0, self._frontier.size - (self._due[-1].size if self._due else 0))
        self.heads.close()

    def _at(self, offset: int) -> str:
        return f"{self._origin.topic}[{self._origin.partition}] offset {offset}"


def _reads(row: Row, known: frozenset[str] | None) -> bool:
    """Return whether the payload is a JSON object of a known type."""
    if known is not None and row.event_type not in known:
        return False
    try:
        return isinstance(orjson.loads(row.record.value), dict)
    except orjson.JSONDecodeError:
        return False


def _follows(row: Row) -> bool:
    """Return whether the row's columns follow from its headers."""
    try:
        headers = dict(row.record.headers or load_headers(row.stored.headers))
    except ValueError:
        return False
    said = (row.event_type, row.step, row.time, row.started)
    return said == describe(headers) and _named(row.saga_id, headers)


def _named(saga_id: UUID | None, headers: Mapping[str, bytes]) -> bool:
    """Return whether the headers name this saga, or none if the row has none."""
    said = headers.get(SAGA_ID) or b""
    if saga_id is not None:
        return said == str(saga_id).encode()
    return read_saga(said) is None
