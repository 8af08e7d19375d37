"""What the saga log remembers of one saga, in memory and in its row."""

from typing import NamedTuple
from uuid import UUID

from tradesaga.consumers.saga_log.parked import NONE, ParkedRecords
from tradesaga.sagas.machine import State
from tradesaga.sagas.status import Status


class Checkpoint(NamedTuple):
    """A saga whose start is known; times are the broker's, in milliseconds since 1970.

    `seq` counts the saga's records from its start on, `head` is the hash of the last. `deadline_pending` is false once
    the deadline has been published or no longer matters; one that lets only some of the parked records go is followed
    by another. `sealed` marks progress that this definition cannot read.
    """

    version: int
    state: State
    status: Status
    context: bytes
    request_hash: str
    seq: int
    head: bytes
    created_ms: int
    updated_ms: int
    deadline_ms: int
    deadline_pending: bool
    sealed: bool = False


class Tracked(NamedTuple):
    """One saga as its lane's owner knows it; no checkpoint means that its start has not come.

    `home` is the partition that its key belongs to; `parked` holds what waits, oldest first.
    """

    saga_id: UUID
    home: int
    checkpoint: Checkpoint | None = None
    parked: ParkedRecords = NONE
