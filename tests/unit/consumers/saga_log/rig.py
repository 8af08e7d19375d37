"""A saga log's fold of one saga, without a database."""

import json

from tests.sagas import Partition, small_saga
from tradesaga.consumers.saga_log.fold import FoldResult, fold_record
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.kafka.codec import Record
from tradesaga.sagas.status import Status
from tradesaga.schemas.envelope import OVERTAKES
from tradesaga.schemas.messages.lifecycle import DeadlineElapsed, ParkReleased
from tradesaga.schemas.messages.message import Event

SAGA = small_saga()
RULES = Rules(SAGA)


class Log:
    """Folds records of one saga one after the other, as the saga log does."""

    def __init__(self) -> None:
        self.partition = Partition(SAGA)
        saga_id = self.partition.saga_id
        self.tracked = Tracked(saga_id, RULES.home(saga_id))

    def say(self, event: Event, **given: str | int) -> FoldResult:
        """Fold an event."""
        return self.fold(self.partition.record(event, **given))

    def fold(self, record: Record) -> FoldResult:
        """Fold a record."""
        outcome = fold_record(RULES, self.tracked, record)
        self.tracked = outcome.tracked or self.tracked
        return outcome

    def deadline(self, late: int = 0, *, overtakes: bool = True) -> FoldResult:
        """Fold a deadline that was recorded `late` milliseconds after it was due."""
        assert self.tracked.snapshot is not None
        record = self.partition.record(DeadlineElapsed(deadline="2026-11-23T00:00:00Z"))
        headers = [*record.headers, (OVERTAKES, b"1")] if overtakes else record.headers
        at = self.tracked.snapshot.deadline_ms + late
        return self.fold(record._replace(recorded_ms=at, headers=headers))

    def start(self) -> FoldResult:
        """Fold a start."""
        return self.fold(self.partition.start())

    @property
    def status(self) -> Status:
        """Give the saga's state."""
        assert self.tracked.snapshot is not None
        return self.tracked.snapshot.status

    @property
    def context(self) -> dict[str, object]:
        """Give the saga's context, read."""
        assert self.tracked.snapshot is not None
        return json.loads(self.tracked.snapshot.context)

    def release(self, offset: int, action: str) -> FoldResult:
        """Fold the release of a parked record."""
        return self.say(
            ParkReleased.model_validate(
                {
                    "operator": "ann",
                    "reason": "seen to",
                    "topic": "small.events",
                    "partition": self.partition.number,
                    "offset": offset,
                    "action": action,
                }
            )
        )
