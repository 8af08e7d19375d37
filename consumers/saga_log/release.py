"""Letting parked records go: they are folded as if at their own offsets, since all of their saga has waited since."""

from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from pydantic import ValidationError

from tradesaga.consumers.saga_log.advance import advance
from tradesaga.consumers.saga_log.checkpoint import Checkpoint, Tracked
from tradesaga.consumers.saga_log.outcome import DeadLetter, Released
from tradesaga.consumers.saga_log.parked import Parked, ParkedRecords
from tradesaga.consumers.saga_log.reading import UnfoldableError, read
from tradesaga.consumers.saga_log.rules import Rules
from tradesaga.sagas.machine import Order
from tradesaga.schemas.invalid import describe_invalid
from tradesaga.schemas.messages.lifecycle import ParkReleased

WAITS: Final = "waits behind"
"""How the reason begins of a record that is parked for no fault of its own."""

LET_GO: Final = 5000
"""Records that one release, or one deadline, lets go: about a quarter of a second, for which all other sagas wait."""


@dataclass
class Release:
    """A saga's waiting records while some are let go; `error` says why the next one still waits, or why none may go."""

    checkpoint: Checkpoint | None
    queue: ParkedRecords
    gone: list[Released] = field(default_factory=list[Released])
    orders: list[Order] = field(default_factory=list[Order])
    added: list[str] = field(default_factory=list[str])
    dead: list[DeadLetter] = field(default_factory=list[DeadLetter])
    error: str = ""
    refused: bool = False
    untried_from: int = 0


def release(rules: Rules, tracked: Tracked, value: bytes) -> Release:
    """Apply a `ParkReleased`; raises `UnfoldableError` when it cannot be read."""
    try:
        said = ParkReleased.from_wire(value)
    except ValidationError as error:
        raise UnfoldableError("invalid-value", describe_invalid(error, "value")) from None
    letting = Release(tracked.checkpoint, tracked.parked)
    parked = tracked.parked.find((said.topic, said.partition, said.offset))
    letting.error = _refusal(said, parked, tracked)
    letting.refused = bool(letting.error)
    if parked is None or letting.refused:
        return letting
    first = tracked.parked[0] is parked
    if said.action == "discard":
        letting.queue = letting.queue.removed(parked.place)
        letting.gone.append(Released(parked, "discard"))
    if _unblocked(tracked):
        if said.action == "retry":
            _try(rules, letting, parked)
    elif first:
        _drain(rules, letting)
        if letting.queue and letting.checkpoint is not None and letting.checkpoint.state.unblocked:
            # A deadline was among them that would have overtaken those that are left.
            letting.checkpoint = letting.checkpoint._replace(deadline_pending=True)
    return letting


def let_pass(rules: Rules, tracked: Tracked) -> Release:
    """Fold, in their order, the next `LET_GO` waiting records, as far as they can be read; the others stay.

    Each is tried once, however many deadlines come: `untried_from` tells the next one where to begin.
    """
    letting = Release(tracked.checkpoint, tracked.parked)
    letting.untried_from = tracked.checkpoint.state.untried_from if tracked.checkpoint is not None else 0
    for parked in islice(tracked.parked.since(letting.untried_from), LET_GO):
        if not _try(rules, letting, parked) and not parked.reason.startswith(WAITS):
            letting.dead.pop()  # it has been there since the record was parked
        letting.untried_from = parked.record.offset + 1
    letting.error = ""
    return letting


def _unblocked(tracked: Tracked) -> bool:
    """Return whether the deadline has elapsed: what is still parked is unreadable, and each stands for itself."""
    return tracked.checkpoint is not None and tracked.checkpoint.state.unblocked


def _refusal(said: ParkReleased, parked: Parked | None, tracked: Tracked) -> str:
    if parked is None:
        topic = said.topic.replace("\0", "\\0")  # PostgreSQL has no NUL in text
        return f"nothing of this saga is parked at {topic}[{said.partition}] offset {said.offset}"
    first = tracked.parked[0]
    if said.action == "retry" and first is not parked and not _unblocked(tracked):
        return f"offset {first.record.offset} stands before it; release that one first"
    return ""


def _drain(rules: Rules, letting: Release) -> None:
    """Fold the waiting records in their order until one of them cannot be folded either, or `LET_GO` have been."""
    for parked in islice(letting.queue, LET_GO):
        if not _try(rules, letting, parked):
            return
    if letting.queue:
        following = letting.queue[0].record.offset
        letting.error = f"{LET_GO} were let go at once; offset {following} waits for another release"


def _try(rules: Rules, letting: Release, parked: Parked) -> bool:
    """Fold one of the waiting records; return whether that could be done."""
    record = parked.record
    try:
        reading = read(rules, letting.checkpoint, record, dict(record.headers))
        advanced = advance(letting.checkpoint, record, reading)
    except UnfoldableError as error:
        letting.error = f"offset {record.offset} cannot be folded: {error}"
        letting.dead.append(DeadLetter(record, error.kind, str(error)))
        return False
    letting.checkpoint = advanced.checkpoint
    letting.orders += advanced.orders
    letting.added += [advanced.added] if advanced.added else []
    letting.queue = letting.queue.removed(parked.place)
    letting.gone.append(Released(parked, "retry"))
    return True
