"""What a worker runs: the port between the step path and those who judge records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tradesaga.infra.kafka.codec import Outgoing, Record
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.outbox_rows import OutboxRow
from tradesaga.infra.postgres.database import Connection
from tradesaga.schemas.envelope import Header


class InDoubtError(Exception):
    """The worker cannot know what it has done: it must drop what it remembers and claim its lanes anew."""


class ConflictError(Exception):
    """Another owner wrote a row between our reading and our writing it: the batch is to be judged again."""


class HaltError(Exception):
    """Database and topics do not belong together as they are: a person must act before any record is handled."""


@dataclass(slots=True)
class Transaction:
    """One open batch: the connection, the lanes that passed the fence, and what is to be published after the commit."""

    sql: Connection
    lanes: dict[int, Lane]
    rows: list[OutboxRow] = field(default_factory=list[OutboxRow])
    _next: dict[int, int] = field(default_factory=dict[int, int])

    def emit(self, lane: int, record: Outgoing) -> None:
        """Add a record to the outbox, behind the others of its lane."""
        seq = self._next.get(lane, self.lanes[lane].last_seq) + 1
        self._next[lane] = seq
        self.rows.append(OutboxRow(lane, seq, record))


class Received(NamedTuple):
    """A record and the lane it came in by."""

    lane: int
    record: Record


class Processor(Protocol):
    """What a worker runs: it judges records and its own timers inside the batch's transaction."""

    group: str
    topics: Sequence[str]

    def wants(self, topic: str, headers: Sequence[Header]) -> bool:
        """Say whether a record is of use; called for each record of the topics."""
        ...

    async def open(self, sql: Connection, lanes: Sequence[Lane], wake: Callable[[], None]) -> None:
        """Forget everything; these are the lanes now. `wake` tells the worker that there is work without a record."""
        ...

    def due_in(self) -> float | None:
        """Give the seconds until there is work of its own (0: now), or None if there is none."""
        ...

    async def apply(self, transaction: Transaction, received: Sequence[Received]) -> None:
        """Judge and write. May be called again after a rollback, with the same records: changes only the transaction.

        Raises `ConflictError` to have the batch judged again.
        """
        ...

    def committed(self) -> None:
        """Do what had to wait for the commit of the last `apply`: start calls, keep caches."""
        ...

    def full(self) -> bool:
        """Say whether fetching should wait until some work is done."""
        ...

    async def close(self) -> None:
        """Stop what runs on the side."""
        ...
