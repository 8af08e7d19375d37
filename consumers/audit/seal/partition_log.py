"""One partition's log as the sealer knows it: the edge of its tree, and what it last signed."""

from dataclasses import dataclass
from typing import NamedTuple

from tradesaga.consumers.saga_log.chain import FORMAT, format_of
from tradesaga.infra.audit_log.checkpoint import Checkpoint, hash_note
from tradesaga.infra.audit_log.clock_evidence import ClockEvidence
from tradesaga.infra.audit_log.merkle import Frontier, hash_leaf
from tradesaga.infra.audit_log.note import Signer
from tradesaga.infra.audit_log.origin import Origin


class HistoryError(Exception):
    """What is there now does not go on from what was sealed: somebody has rewritten the past."""


class OffsetError(HistoryError):
    """A log has an offset twice: one of the two rows was planted, and only the topic can tell which."""


class Sealed(NamedTuple):
    """What was signed of a log, and the edge from which its sealing goes on."""

    origin: Origin
    size: int
    next_offset: int
    frontier: bytes
    note: str


@dataclass(slots=True)
class SealedLog:
    """One log: a leaf a record, in offset order."""

    origin: Origin
    frontier: Frontier
    next_offset: int
    sealed: int = 0
    previous: str = ""
    leaves_from: int | None = None
    """The first offset whose hash is of format 2, once there is one."""

    @classmethod
    def empty(cls, origin: Origin) -> "SealedLog":
        """Begin a log of which nothing is sealed."""
        return cls(origin, Frontier.empty(), 0)

    def take(self, offset: int, record_hash: bytes) -> None:
        """Add a record by the hash that its row has. Raises `OffsetError` if it is none behind the last."""
        if offset < self.next_offset:
            raise OffsetError(f"{self.origin}: offset {offset} comes again; {self.next_offset} is next")
        if self.leaves_from is None and format_of(record_hash) == FORMAT:
            self.leaves_from = offset
        self.frontier.append(hash_leaf(record_hash))
        self.next_offset = offset + 1

    def seal(self, signer: Signer, now: int, clock: ClockEvidence) -> Sealed:
        """Sign what the log is now; `now` is nanoseconds since 1970."""
        checkpoint = Checkpoint(
            origin=str(self.origin),
            size=self.frontier.size,
            root=self.frontier.root(),
            next_offset=self.next_offset,
            previous=self.previous,
            time=now,
            clock=clock.source,
            clock_error=clock.error,
            leaves_from=self.leaves_from,
        )
        return self.sealed_as(signer.sign(checkpoint.to_text()))

    def sealed_as(self, note: str) -> Sealed:
        """Take a note for the checkpoint of what the log is now."""
        self.sealed, self.previous = self.frontier.size, hash_note(note)
        return Sealed(self.origin, self.frontier.size, self.next_offset, self.frontier.pack(), note)
