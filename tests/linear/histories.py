"""Many records of one saga, as anybody who may write to its topic sends them, through the fold of the saga log."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tests.sagas import Partition, small_saga
from tradesaga.consumers.saga_log.fold import fold_record
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import SagaCache, Tracked
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.saga_queries import encode_progress
from tradesaga.schemas.envelope import OVERTAKES
from tradesaga.schemas.messages.lifecycle import (
    AbortRequested,
    AttemptFailed,
    DeadlineElapsed,
    ParkReleased,
    StepContradicted,
    StepFailed,
)

_SAGA: Final = small_saga()
_RULES: Final = Rules(_SAGA)


class Saga:
    """One saga that has started; each record is folded, and then kept as the saga log keeps it."""

    def __init__(self) -> None:
        self.partition = Partition(_SAGA)
        self._kept = SagaCache()
        self.tracked = Tracked(self.partition.saga_id, _RULES.home(self.partition.saga_id))
        self.fold(self.partition.start())

    def fold(self, record: Record) -> Record:
        """Fold a record and return it."""
        self.tracked = fold_record(_RULES, self.tracked, record).tracked or self.tracked
        self._kept.keep(self.tracked)
        if self.tracked.snapshot is not None:
            encode_progress(_RULES.machine, self.tracked.snapshot.state)
        return record

    def unreadable(self) -> Record:
        """Fold a record that cannot be read: it is of a step that the saga does not have."""
        return self.fold(self.partition.record(StepFailed(step="nowhere", attempts=1, reason="no")))

    def waiting(self) -> Record:
        """Fold a record that could be read."""
        failed = AttemptFailed(step="hold", direction="forward", attempt=1, reason="no")
        return self.fold(self.partition.record(failed))

    def deadline(self, late: int) -> None:
        """Fold a deadline that overtakes parked records, recorded so many milliseconds after it is due."""
        assert self.tracked.snapshot is not None
        record = self.partition.record(DeadlineElapsed(deadline="2026-11-23T00:00:00Z"))
        at = self.tracked.snapshot.deadline_ms + late
        self.fold(record._replace(recorded_ms=at, headers=[*record.headers, (OVERTAKES, b"1")]))

    def release(self, offset: int, action: str) -> None:
        """Fold the release of a parked record."""
        released = ParkReleased.model_validate({
            "operator": "anybody", "reason": "because", "topic": _RULES.topic,
            "partition": self.tracked.home, "offset": offset, "action": action,
        })  # fmt: skip
        self.fold(self.partition.record(released))


def _unreadable(number: int) -> None:
    saga = Saga()
    for _ in range(number):
        saga.unreadable()
    assert len(saga.tracked.parked) == number


def _one_unreadable(number: int) -> None:
    saga = Saga()
    saga.unreadable()
    for _ in range(number):
        saga.waiting()


def _released(number: int, action: str, order: Callable[[list[int]], Iterable[int]]) -> None:
    saga = Saga()
    parked = [saga.unreadable().offset for _ in range(number)]
    for offset in order(parked):
        saga.release(offset, action)


def _released_with_all_behind(number: int) -> None:
    saga = Saga()
    first = saga.unreadable()
    for _ in range(number):
        saga.waiting()
    saga.release(first.offset, "discard")
    assert not saga.tracked.parked


def _deadline(number: int) -> None:
    saga = Saga()
    saga.unreadable()
    for _ in range(number):
        saga.waiting()
    saga.deadline(late=0)
    assert len(saga.tracked.parked) == 1


def _deadlines_one_after_another(number: int) -> None:
    saga = Saga()
    for _ in range(number):
        saga.unreadable()
        saga.waiting()
    while saga.tracked.snapshot is not None and saga.tracked.snapshot.deadline_pending:
        saga.deadline(late=0)
    for _ in range(number):
        saga.deadline(late=0)
    assert len(saga.tracked.parked) == number


def _early_deadlines(number: int) -> None:
    saga = Saga()
    for _ in range(number):
        saga.unreadable()
        saga.deadline(late=-10_000)


def _retried_after_the_deadline(number: int) -> None:
    saga = Saga()
    parked = [saga.unreadable().offset for _ in range(number)]
    saga.deadline(late=0)
    for offset in parked:
        saga.release(offset, "retry")


def _contradictions(number: int) -> None:
    saga = Saga()
    for each in range(number):
        saga.fold(saga.partition.record(StepContradicted(step="place", venue_id=str(each), reason="no")))


def _decisions(number: int) -> None:
    saga = Saga()
    for _ in range(number):
        saga.fold(saga.partition.record(AbortRequested(operator="anybody", reason="because")))


HISTORIES: Final[Mapping[str, Callable[[int], None]]] = {
    "records that cannot be read": _unreadable,
    "records behind one that cannot be read": _one_unreadable,
    "releases of nothing": lambda number: _released(
        number, "discard", lambda parked: [each + 10**6 for each in parked]
    ),
    "releases from the first on": lambda number: _released(number, "discard", lambda parked: parked),
    "releases from the last on": lambda number: _released(number, "discard", lambda parked: parked[::-1]),
    "retries of the first": lambda number: _released(number, "retry", lambda parked: parked[:1] * len(parked)),
    "a release of all that waits": _released_with_all_behind,
    "a deadline": _deadline,
    "deadlines one after another": _deadlines_one_after_another,
    "deadlines before their time": _early_deadlines,
    "retries after the deadline": _retried_after_the_deadline,
    "contradictions": _contradictions,
    "decisions": _decisions,
}
