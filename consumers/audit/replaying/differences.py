"""What a replay comes to, held against what the database has: field by field, both sides told."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import asyncpg

from consumers.saga_log.checkpoint import Checkpoint
from consumers.saga_log.outcome import Outcome

_STATE: Final = frozenset({"state", "status"})
"""Fields that only the definition under which the saga runs can tell."""
_SHOWN: Final = 200


class Difference(NamedTuple):
    """One field of one saga, or record, on which topics and database do not agree."""

    where: str
    field: str
    topics: str
    database: str


def compare_sagas(where: str, replayed: Checkpoint | None, stored: Checkpoint | None) -> Iterator[Difference]:
    """Compare one saga's checkpoint as replayed with its row."""
    if replayed is None or stored is None:
        if replayed is not stored:
            yield Difference(where, "row", _there(replayed), _there(stored))
        return
    for field in Checkpoint._fields:
        mine, theirs = getattr(replayed, field), getattr(stored, field)
        if mine == theirs or field == "sealed" or (stored.sealed and field in _STATE):
            continue
        # The saga log publishes a deadline first; it comes back as a record that the topic may not have yet.
        if field == "deadline_pending" and mine and not theirs:
            continue
        yield Difference(where, field, _shown(mine), _shown(theirs))


def compare_rows(outcome: Outcome, row: asyncpg.Record | None) -> Iterator[Difference]:
    """Compare what the fold enters for one record with its row of the audit log."""
    record, entry = outcome.record, outcome.entry
    where = f"{record.topic}[{record.partition}] offset {record.offset}"
    if row is None:
        yield Difference(where, "row", "there", "missing")
        return
    expected = {
        "saga_id": outcome.tracked.saga_id if outcome.tracked is not None else None,
        "seq": entry.seq,
        "event_type": entry.event_type,
        "step_name": entry.step,
        "event_time": entry.time,
        "started": entry.started,
        "context_added": entry.added,
        "error": entry.error,
        "headers": entry.headers,
        "value": record.value,
        "hash": entry.hash,
        "recorded_ms": record.recorded_ms,
    }
    for field, mine in expected.items():
        if (row[field] or None) != (mine or None):
            yield Difference(where, field, _shown(mine), _shown(row[field]))


def _there(checkpoint: Checkpoint | None) -> str:
    return "missing" if checkpoint is None else checkpoint.status.value


def _shown(value: object) -> str:
    text = value.hex() if isinstance(value, bytes) and len(value) == 32 else str(value)  # noqa: PLR2004 - a hash
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
