"""Replay: the records of a topic folded again, by the very fold of the saga log, and nothing published."""

from collections.abc import Iterator
from uuid import UUID

from consumers.audit.replaying.shelf import Shelf
from consumers.saga_log.checkpoint import Tracked
from consumers.saga_log.fold import fold_record
from consumers.saga_log.outcome import Outcome
from consumers.saga_log.reading import saga_of
from consumers.saga_log.rules import Rules
from infra.codec import Record


class Replayed:
    """What the records of one partition, taken in offset order, come to."""

    def __init__(self, rules: Rules, shelf: Shelf) -> None:
        self._rules = rules
        self._shelf = shelf
        self._open: dict[UUID, Tracked] = {}

    def take(self, record: Record) -> Outcome:
        """Fold the next record."""
        saga_id = saga_of(record)
        outcome = fold_record(self._rules, self._find(saga_id), record)
        if outcome.tracked is not None:
            self._keep(outcome.tracked)
        return outcome

    def _find(self, saga_id: UUID | None) -> Tracked | None:
        if saga_id is None:
            return None
        known = self._open.get(saga_id) or self._shelf.take(saga_id)
        return known or Tracked(saga_id, self._rules.home(saga_id))

    def _keep(self, tracked: Tracked) -> None:
        checkpoint = tracked.checkpoint
        if checkpoint is not None and checkpoint.status.final and not tracked.parked:
            self._open.pop(tracked.saga_id, None)
            self._shelf.put(tracked, checkpoint)
        else:
            self._open[tracked.saga_id] = tracked

    def sagas(self) -> Iterator[Tracked]:
        """Give every saga whose start was among the records, and those of which only other records were."""
        yield from self._open.values()
        yield from self._shelf
