"""Letting parked records go: they are folded as if at their own offsets, since all of their saga has waited since."""

from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from consumers.saga_log.advance import advance
from consumers.saga_log.checkpoint import Checkpoint, Parked, Tracked
from consumers.saga_log.outcome import DeadLetter, Released
from consumers.saga_log.reading import UnfoldableError, read
from consumers.saga_log.rules import Rules
from sagas.machine import Order
from schemas.invalid import describe_invalid
from schemas.lifecycle import ParkReleased

WAITS: Final = "waits behind"
"""How the reason begins of a record that is parked for no fault of its own."""


@dataclass
class Release:
    """A saga's waiting records while some are let go; `error` says why the next one still waits, or why none may go."""

    checkpoint: Checkpoint | None
    queue: list[Parked]
    gone: list[Released] = field(default_factory=list[Released])
    orders: list[Order] = field(default_factory=list[Order])
    added: list[str] = field(default_factory=list[str])
    dead: list[DeadLetter] = field(default_factory=list[DeadLetter])
    error: str = ""
    refused: bool = False


def release(rules: Rules, tracked: Tracked, value: bytes) -> Release:
    """Apply a `ParkReleased`; raises `UnfoldableError` when it cannot be read."""
    try:
        said = ParkReleased.from_wire(value)
    except ValidationError as error:
        raise UnfoldableError("invalid-value", describe_invalid(error, "value")) from None
    letting = Release(tracked.checkpoint, list(tracked.parked))
    place = (said.topic, said.partition, said.offset)
    position = next((index for index, parked in enumerate(letting.queue) if parked.place == place), -1)
    letting.error = _refusal(said, position, letting.queue, unblocked=_unblocked(tracked))
    letting.refused = bool(letting.error)
    if letting.refused:
        return letting
    if said.action == "discard":
        letting.gone.append(Released(letting.queue.pop(position), "discard"))
    if _unblocked(tracked):
        if said.action == "retry":
            _try(rules, letting, position)
    elif position == 0:
        _drain(rules, letting)
    return letting


def let_pass(rules: Rules, tracked: Tracked) -> Release:
    """Fold, in their order, all waiting records that can be read; the others stay."""
    letting = Release(tracked.checkpoint, list(tracked.parked))
    position = 0
    while position < len(letting.queue):
        waited = letting.queue[position].reason.startswith(WAITS)
        if not _try(rules, letting, position):
            if not waited:
                letting.dead.pop()  # it has been there since the record was parked
            position += 1
    letting.error = ""
    return letting


def _unblocked(tracked: Tracked) -> bool:
    """Return whether the deadline has elapsed: what is still parked is unreadable, and each stands for itself."""
    return tracked.checkpoint is not None and tracked.checkpoint.state.unblocked


def _refusal(said: ParkReleased, position: int, queue: list[Parked], *, unblocked: bool) -> str:
    if position < 0:
        return f"nothing of this saga is parked at {said.topic}[{said.partition}] offset {said.offset}"
    if said.action == "retry" and position > 0 and not unblocked:
        return f"offset {queue[0].record.offset} stands before it; release that one first"
    return ""


def _drain(rules: Rules, letting: Release) -> None:
    """Fold the waiting records in their order until one of them cannot be folded either."""
    while letting.queue and _try(rules, letting, 0):
        continue


def _try(rules: Rules, letting: Release, position: int) -> bool:
    """Fold one of the waiting records; return whether that could be done."""
    record = letting.queue[position].record
    try:
        advanced = advance(letting.checkpoint, record, read(rules, letting.checkpoint, record))
    except UnfoldableError as error:
        letting.error = f"offset {record.offset} cannot be folded: {error}"
        letting.dead.append(DeadLetter(record, error.kind, str(error)))
        return False
    letting.checkpoint = advanced.checkpoint
    letting.orders += advanced.orders
    letting.added += [advanced.added] if advanced.added else []
    letting.gone.append(Released(letting.queue.pop(position), "retry"))
    return True
