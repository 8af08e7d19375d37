"""Finds the checkpoint that covers each record of a saga, and proves that the record is in it."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from tradesaga.consumers.audit.log.action_log import ActionError
from tradesaga.consumers.audit.log.checkpoints import read_ends
from tradesaga.consumers.audit.log.retired_ranges import RetiredRanges
from tradesaga.consumers.audit.log.rows import Position, first_offset, read_leaves
from tradesaga.consumers.audit.report.model import NOT_YET, Proof, Seal
from tradesaga.infra.audit_log.checkpoint import Checkpoint, Origin
from tradesaga.infra.audit_log.clock_evidence import ClockTier
from tradesaga.infra.audit_log.merkle import Frontier, ProofError, check_inclusion, hash_leaf
from tradesaga.infra.audit_log.note import NoteError, Verifier, open_note
from tradesaga.infra.postgres.database import Session

Span = tuple[int, int]
"""The leaves of a subtree, the end excluded."""


def siblings(index: int, size: int) -> list[Span]:
    """Return the subtrees whose roots prove leaf `index` in a log of `size`, deepest first (RFC 6962 section 2.1.1)."""
    found: list[Span] = []
    start, end = 0, size
    while end - start > 1:
        split = start + (1 << (end - start - 1).bit_length() - 1)
        if index < split:
            found.append((split, end))
            end = split
        else:
            found.append((start, split))
            start = split
    return found[::-1]


@dataclass(slots=True)
class _Growing:
    span: Span
    frontier: Frontier


class Prover:
    """Computes inclusion proofs in one pass over the leaves; `wanted` are pairs of leaf and size.

    `begin` is the frontier of the tree over retired leaves; none of them is wanted. Subtrees that several proofs share,
    as most of neighbouring records do, are computed once.
    """

    def __init__(self, wanted: Iterable[tuple[int, int]], begin: Frontier | None = None) -> None:
        spans = {span for index, size in wanted for span in siblings(index, size)}
        self._waiting = sorted(spans, reverse=True)
        self._growing: list[_Growing] = []
        self._roots: dict[Span, bytes] = {}
        self._next = 0
        if begin is not None:
            self._pass(begin)

    def _pass(self, begin: Frontier) -> None:
        """Add the frontier of the retired leaves, whose subtrees are parts of the needed ones."""
        self._next = begin.size
        while self._waiting and self._waiting[-1][0] < begin.size:
            growing = _Growing(self._waiting.pop(), Frontier.empty())
            for start, level, root in begin.subtrees():
                if growing.span[0] <= start and start + (1 << level) <= growing.span[1]:
                    growing.frontier.append_subtree(level, root)
            if growing.span[1] <= begin.size:
                self._roots[growing.span] = growing.frontier.root()
            else:
                self._growing.append(growing)

    def take(self, leaf: bytes) -> None:
        """Add the next leaf, given by its hash."""
        here = self._next
        while self._waiting and self._waiting[-1][0] == here:
            self._growing.append(_Growing(self._waiting.pop(), Frontier.empty()))
        self._next += 1
        ended = False
        for each in self._growing:
            each.frontier.append(leaf)
            if each.span[1] == self._next:
                self._roots[each.span] = each.frontier.root()
                ended = True
        if ended:
            self._growing = [each for each in self._growing if each.span[1] != self._next]

    def proof(self, index: int, size: int) -> list[bytes] | None:
        """Return a wanted proof; None if there were fewer than `size` leaves."""
        roots = [self._roots.get(span) for span in siblings(index, size)]
        found = [root for root in roots if root is not None]
        return found if len(found) == len(roots) else None


_LAST: Final = "SELECT note FROM audit_checkpoint WHERE topic = $1 AND partition = $2 ORDER BY size DESC LIMIT 1"

_COVERS: Final = """
SELECT note FROM audit_checkpoint WHERE topic = $1 AND partition = $2 AND size > $3 ORDER BY size LIMIT 1
"""

_SKIPPED: Final = """
SELECT "offset", (sum(least(skipped, "offset")) OVER (ORDER BY "offset"))::bigint FROM saga_event
WHERE topic = $1 AND partition = $2 AND "offset" >= $3 AND "offset" < $4 AND skipped > 0 ORDER BY "offset"
"""

Log = tuple[str, int]


class _Start(NamedTuple):
    """The first offset that was not retired, and the frontier of the tree before it.

    `skips` has the records after gaps that transactions left: their offsets, and the number of skipped offsets so far.
    """

    offset: int
    frontier: Frontier | None
    skips: Sequence[tuple[int, int]] = ()

    @property
    def leaves(self) -> int:
        """The number of retired leaves."""
        return self.frontier.size if self.frontier is not None else 0

    def leaf_of(self, offset: int) -> int:
        """Return the leaf of the record at `offset`."""
        passed = bisect_right(self.skips, offset, key=lambda each: each[0])
        skipped = self.skips[passed - 1][1] if passed else 0
        return self.leaves + offset - self.offset - skipped


class SealError(Exception):
    """A seal is invalid or cannot be proven; the message says why."""


@dataclass
class SealFinder:
    """Finds the seals of a saga's records. `proving` reads every leaf before them, counted by `advance`."""

    sql: Session
    log_id: str
    trusted: Mapping[bytes, Verifier]
    tier: ClockTier
    proving: bool = True
    advance: Callable[[int], None] = field(default=lambda _: None)

    async def look(self, hashes: Sequence[tuple[Position, bytes]]) -> dict[Position, Seal]:
        """Return the seal of each record; the hashes are those of the records' bytes."""
        logs: dict[Log, dict[Position, bytes]] = {}
        for place, found in hashes:
            logs.setdefault((place.topic, place.partition), {})[place] = found
        seals: dict[Position, Seal] = {}
        for log, records in logs.items():
            try:
                seals |= await self._look(log, records)
            except (NoteError, SealError) as error:
                seals |= dict.fromkeys(records, Seal(Proof.UNPROVEN, str(error)))
        return seals

    async def _look(self, log: Log, records: Mapping[Position, bytes]) -> dict[Position, Seal]:
        end = (await read_ends(self.sql)).get(log, 0)
        planted = Seal(
            Proof.UNPROVEN, f"the saga log has read only up to offset {end}: somebody else inserted this row"
        )
        beyond = {place: planted for place in records if place.offset >= end}
        last = await self.sql.fetchval(_LAST, *log)
        if last is None:
            return dict.fromkeys(records, NOT_YET) | beyond
        newest = self._read(log, last)
        start = await self._start(log, newest)
        covers: dict[Position, Checkpoint] = {}
        for place in records:
            if place.offset < newest.next_offset:
                note = await self.sql.fetchval(_COVERS, *log, start.leaf_of(place.offset))
                covers[place] = each = self._read(log, note or last)
                if each.size != start.leaf_of(each.next_offset - 1) + 1:
                    raise SealError("the checkpoints disagree on where the log begins: offsets are missing")
        prover, missing = Prover(()), ""
        if self.proving and covers:
            wanted = [(start.leaf_of(place.offset), each.size) for place, each in covers.items()]
            prover = Prover(wanted, start.frontier)
            missing = await self._feed(prover, log, start, max(each.next_offset for each in covers.values()))
        sealed = {place: self._sealed(each, start.leaf_of(place.offset)) for place, each in covers.items()}
        if self.proving:
            sealed = {
                place: _prove(seal, covers[place], prover, records[place], missing) for place, seal in sealed.items()
            }
        return {place: sealed.get(place, NOT_YET) for place in records} | beyond

    async def _start(self, log: Log, newest: Checkpoint) -> "_Start":
        """Return where the log's leaves begin, and its offsets without a record.

        The rows are the source of these; the proof shows whether they are right.
        """
        start = await self._begin(log, newest.next_offset - newest.size)
        if newest.size == start.leaf_of(newest.next_offset - 1) + 1:
            return start  # one record per offset, as in almost every log
        rows = await self.sql.fetch(_SKIPPED, *log, start.offset, newest.next_offset)
        return start._replace(skips=[(row[0], row[1]) for row in rows])

    async def _begin(self, log: Log, begin: int) -> "_Start":
        """Return where the log's leaves begin: with its first record, or after the retired ones.

        `begin` is that offset if there is one record per offset. The proof shows whether the retired ranges are right.
        """
        first = await first_offset(self.sql, *log)
        if first is None or first == begin == 0:
            return _Start(begin, None)
        try:
            found = (await RetiredRanges.load(self.sql)).before(log, first)
        except ActionError as error:
            raise SealError(f"the retired ranges cannot be read: {error}") from error
        return _Start(min(first, begin), None) if found is None else _Start(found[1].next_offset, found[1].frontier)

    async def _feed(self, prover: Prover, log: Log, start: "_Start", end: int) -> str:
        """Pass all leaves before offset `end` to the prover; return what is missing, if anything is."""
        expected = start.offset
        async for page in read_leaves(self.sql, log, (0, end)):
            for offset, found, skipped in page:
                if offset - skipped != expected:
                    return f"offsets {expected} to {offset - 1} are not in the log any more; the proof needs them"
                prover.take(hash_leaf(found))
                expected = offset + 1
            self.advance(len(page))
        return "" if expected == end else f"offsets {expected} to {end - 1} were sealed and are missing"

    def _read(self, log: Log, note: str) -> Checkpoint:
        checkpoint = Checkpoint.parse(open_note(note, self.trusted)[0])
        if checkpoint.origin != str(Origin(self.log_id, *log)):
            raise SealError(f"the checkpoint belongs to another log: {checkpoint.origin}")
        return checkpoint

    def _sealed(self, checkpoint: Checkpoint, index: int) -> Seal:
        return Seal(
            Proof.UNCHECKED,
            "not proven because of --no-proof",
            index=index,
            size=checkpoint.size,
            time=checkpoint.time,
            clock=checkpoint.clock,
            clock_error=checkpoint.clock_error,
            outside_tier=self.tier.exceeded(checkpoint.clock_error),
        )


def _prove(seal: Seal, checkpoint: Checkpoint, prover: Prover, found: bytes, missing: str) -> Seal:
    path = prover.proof(seal.index, seal.size)
    if path is None:
        return replace(seal, proof=Proof.UNPROVEN, why=missing)
    try:
        check_inclusion(hash_leaf(found), seal.index, seal.size, checkpoint.root, path)
    except ProofError as error:
        return replace(seal, proof=Proof.UNPROVEN, why=str(error))
    return replace(seal, proof=Proof.PROVEN, why="", path=tuple(each.hex() for each in path))
