"""The interface between a worker and the processor that handles its records, with the errors of both."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from tradesaga.infra.kafka.codec import Outgoing, Record
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.outbox_rows import OutboxRow
from tradesaga.infra.postgres.database import Connection
from tradesaga.schemas.envelope import Header

TURN: Final = 0.1
"""Seconds after which a batch yields: a sixtieth of the default session timeout."""


class Pace:
    """Measures the time since the last yield; checked before each record."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()

    def is_due(self) -> bool:
        """Return whether it is time to yield."""
        return self._clock() - self._since > TURN

    async def turn(self) -> None:
        """Yield to the event loop."""
        await asyncio.sleep(0)
        self._since = self._clock()


class InDoubtError(Exception):
    """The outcome of a commit or the ownership of a lane is unknown: drop all state and acquire the lanes again."""


class ConflictError(Exception):
    """Another owner changed a row between our read and our write: the batch is to be handled again."""


class HaltError(Exception):
    """Database and topics do not belong together: no record is handled until an operator acts."""


@dataclass(slots=True)
class Transaction:
    """One open batch: the connection, the lanes that passed the fence, and the rows to publish after the commit.

    `has_all_lanes` is whether the batch locks all lanes of its owner, not only those it was known to write to.
    """

    sql: Connection
    lanes: dict[int, Lane]
    has_all_lanes: bool = True
    rows: list[OutboxRow] = field(default_factory=list[OutboxRow])
    _next: dict[int, int] = field(default_factory=dict[int, int])

    def emit(self, lane: int, record: Outgoing) -> None:
        """Append a record to the outbox rows of its lane."""
        seq = self._next.get(lane, self.lanes[lane].last_seq) + 1
        self._next[lane] = seq
        self.rows.append(OutboxRow(lane, seq, record))


class Received(NamedTuple):
    """A record and the id of the lane it arrived on."""

    lane: int
    record: Record


class Processor(Protocol):
    """Handles records, and timers of its own, inside the batch's transaction."""

    group: str
    topics: Sequence[str]

    def wants(self, topic: str, headers: Sequence[Header]) -> bool:
        """Return whether a record is needed; called for each record of the topics."""
        ...

    async def open(self, sql: Connection, lanes: Sequence[Lane], wake: Callable[[], None]) -> None:
        """Drop all state and start with these lanes; `wake` tells the worker that there is work without a record."""
        ...

    def due_in(self) -> float | None:
        """Return the seconds until a timer is due (0: now), None if there is none."""
        ...

    def other_lanes(self) -> Collection[int] | None:
        """Return the ids of the lanes, besides those of the records, that the next batch writes to; None for all.

        What is due may belong to any lane: `apply` handles it only in a transaction that has all lanes.
        """
        ...

    async def apply(self, transaction: Transaction, received: Sequence[Received]) -> None:
        """Handle records and write the results.

        May be called again with the same records after a rollback, so it changes only the transaction. Raises
        `ConflictError` to have the batch handled again.
        """
        ...

    def committed(self) -> None:
        """Do what must follow the commit of the last `apply`: start calls, update caches."""
        ...

    def full(self) -> bool:
        """Return whether fetching should pause until some work is done."""
        ...

    async def close(self) -> None:
        """Stop background tasks."""
        ...
