"""Process the saga log's batches, in a constant number of statements each."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import structlog

from tradesaga.consumers.saga_log import store
from tradesaga.consumers.saga_log.batch_report import report_batch
from tradesaga.consumers.saga_log.commands import (
    UnownedSteps,
    awaited_of,
    command,
    deadline_elapsed,
    step_unowned,
    version_registered,
)
from tradesaga.consumers.saga_log.fold import FoldResult, fold_record
from tradesaga.consumers.saga_log.reading import Rules, awaited_version, saga_of
from tradesaga.consumers.saga_log.tracked_saga import NONE, SagaCache, Tracked
from tradesaga.infra.clock import Clock, SystemClock, elapsed
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.dead_letters import RecordFault, dead_letter
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.processor import Pace, Received, Transaction
from tradesaga.infra.postgres.database import Connection
from tradesaga.schemas.envelope import Header

_NOTABLE: Final = 1.0
"""Seconds above which a clock difference is logged, and a deadline counts as late."""


@dataclass
class ClockLead:
    """Seconds by which the database's clock is ahead of the broker's, measured by published deadlines.

    Without it an early deadline would be published again and again.
    """

    seconds: float = 0.0

    def learn(self, before: Tracked, outcome: FoldResult) -> None:
        """Adjust the lead by a published deadline: raise it if the deadline was early, lower it if it was late.

        A deadline sent by somebody else shows nothing: ours is still pending then. Nor does one after the first.
        """
        snapshot = before.snapshot
        if snapshot is None or snapshot.deadline_pending or snapshot.state.unblocked:
            return
        late = (outcome.record.recorded_ms - snapshot.deadline_ms) / 1000
        if -late > self.seconds:
            self.seconds = -late
            if self.seconds > _NOTABLE:
                ahead = round(self.seconds, 1)
                structlog.get_logger("saga-log").warning("the database's clock is ahead of the broker's", seconds=ahead)
        elif late > _NOTABLE:
            self.seconds = max(0.0, self.seconds - late)


DUE_LIMIT: Final = 500


@dataclass
class _Batch:
    """Results of the batch so far; discarded if it is processed again."""

    known: dict[UUID, Tracked]
    outcomes: list[tuple[Lane, FoldResult]] = field(default_factory=list[tuple[Lane, FoldResult]])
    touched: dict[UUID, int] = field(default_factory=dict[UUID, int])
    next_due: float | None = None
    asked: bool = False
    deadlines: list[tuple[Tracked, FoldResult]] = field(default_factory=list[tuple[Tracked, FoldResult]])
    last: dict[int, int] = field(default_factory=dict[int, int])
    unowned: Mapping[UUID, Collection[str]] = field(default_factory=dict[UUID, Collection[str]])
    published: dict[UUID, Collection[str]] = field(default_factory=dict[UUID, Collection[str]])


class SagaLog:
    """Folds `<saga>.events` into snapshots and the audit log."""

    def __init__(self, rules: Rules, clock: Clock | None = None) -> None:
        self.group = f"{rules.saga.name}-log"
        self.topics: Sequence[str] = (rules.topic,)
        self._rules = rules
        self._clock = clock or SystemClock()
        self._cache = SagaCache()
        self._lead = ClockLead()
        self._parked: set[UUID] = set()
        self._waiting: list[tuple[store.Waiting, int]] = []
        self._unowned = UnownedSteps()
        self.lanes: Sequence[int] = ()
        self._wake: Callable[[], None] = lambda: None
        self._next_due: float | None = None
        self._last: dict[int, int] = {}
        self._batch = _Batch({})

    def wants(self, topic: str, headers: Sequence[Header]) -> bool:  # noqa: ARG002 - every record has its row
        """Take every record of the topic."""
        return True

    async def open(self, sql: Connection, lanes: Sequence[Lane], wake: Callable[[], None]) -> None:
        """Reset, and read these lanes' last offsets, their sagas with parked records, and the next deadline.

        Records parked for a version of the definition are released if it is registered now.
        """
        self._cache.clear()
        self._unowned.clear()
        self._wake = wake
        self.lanes = [lane.id for lane in lanes]
        self._last = await store.last_offsets(sql, self.lanes)
        places = [lane.partition for lane in lanes]
        self._parked = await store.parked_sagas(sql, self.group, self._rules.topic, places)
        waiting = await store.parked_for_version(sql, self.group, self._parked) if self._parked else []
        versions = [(each, awaited_version(each.reason)) for each in waiting]
        self._waiting = [(each, version) for each, version in versions if version in self._rules.versions]
        self._next_due = _at(await store.next_due_in(sql, self.lanes))

    def due_in(self) -> float | None:
        """Return the seconds to the next deadline; 0 if something is to be published at once."""
        if self._waiting or self._unowned.pending:
            return 0
        return None if self._next_due is None else max(0.0, self._next_due - elapsed())

    async def report_unowned(self, found: Mapping[UUID, Collection[str]], seconds: float) -> None:
        """Publish `StepUnowned` for these sagas, which wait past their deadlines for steps without an owner.

        Returns once the facts are folded, or after `seconds`; sagas of other processes' lanes are dropped.
        """
        self._unowned.report(found)
        self._wake()
        await self._unowned.settled(seconds)

    def other_lanes(self) -> Collection[int] | None:
        """Return nothing, since a batch writes to the lanes of its records; None if something is to be published."""
        return None if self.due_in() == 0 else ()

    async def apply(self, transaction: Transaction, received: Sequence[Received]) -> None:
        """Fold the records, write changed sagas, and put commands and due deadlines into the outbox."""
        sql = transaction.sql
        overdue: list[UUID] = []
        asked = transaction.has_all_lanes and self._next_due is not None and self._next_due <= elapsed()
        if asked:
            overdue = await store.find_due(sql, transaction.lanes, DUE_LIMIT, self._lead.seconds)
        sagas = [saga_of(each.record) for each in received]
        batch = self._batch = _Batch(await self._gather(sql, {*overdue, *(saga for saga in sagas if saga)}))
        batch.last = dict(self._last)
        lanes = {lane.partition: lane.id for lane in transaction.lanes.values()}
        self._publish_deadlines(transaction, batch, lanes, overdue)
        self._publish_registered(transaction, lanes)
        if transaction.has_all_lanes:
            self._publish_unowned(transaction, batch, lanes)
        pace = Pace()
        for saga_id, each in zip(sagas, received, strict=True):
            if pace.is_due():
                await pace.turn()
            self._fold(transaction, batch, saga_id, each)
        await self._write(sql, batch)
        if asked:
            wait = await store.next_due_in(sql, transaction.lanes)
            batch.asked, batch.next_due = True, _at(None if wait is None else wait + self._lead.seconds)

    def committed(self) -> None:
        """Keep the results of the committed batch, and update the metrics."""
        batch, self._batch = self._batch, _Batch({})
        self._waiting = []
        self._unowned.committed(batch.unowned, batch.published)
        self._unowned.folded(self._rules, batch.known, batch.touched)
        self._last = batch.last
        for saga_id in batch.touched:
            self._keep(batch.known[saga_id])
        if batch.asked:
            self._next_due = batch.next_due
        self._expect(batch.known[saga_id] for saga_id in batch.touched)
        for before, outcome in batch.deadlines:
            self._lead.learn(before, outcome)
        report_batch(self._rules, self.group, [outcome for _, outcome in batch.outcomes])

    def full(self) -> bool:
        """Return False: a batch ends before the next begins."""
        return False

    async def close(self) -> None:
        """Do nothing: no task runs beside the batches."""

    async def _gather(self, sql: Connection, sagas: set[UUID]) -> dict[UUID, Tracked]:
        """Return the current state of sagas: from the cache, or from the database in one statement."""
        known = {saga_id: tracked for saga_id in sagas if (tracked := self._cache.get(saga_id)) is not None}
        unknown = sagas - known.keys()
        if not unknown:
            return known
        snapshots = await store.load(sql, self._rules, unknown)
        waiting = unknown & self._parked
        parked = await store.load_parked(sql, self.group, waiting) if waiting else {}
        for saga_id in unknown:
            home = self._rules.home(saga_id)
            known[saga_id] = Tracked(saga_id, home, snapshots.get(saga_id), parked.get(saga_id, NONE))
        return known

    def _publish_deadlines(
        self, transaction: Transaction, batch: _Batch, lanes: Mapping[int, int], overdue: Iterable[UUID]
    ) -> None:
        """Publish the deadlines that have passed; each is folded when its record is read."""
        for saga_id in overdue:
            tracked = batch.known[saga_id]
            snapshot, lane = tracked.snapshot, lanes.get(tracked.home)
            if snapshot is None or lane is None or not snapshot.deadline_pending:
                continue
            transaction.emit(lane, deadline_elapsed(self._rules, saga_id, snapshot, self._clock.now()))
            batch.known[saga_id] = tracked._replace(snapshot=snapshot._replace(deadline_pending=False))
            batch.touched[saga_id] = lane

    def _publish_registered(self, transaction: Transaction, lanes: Mapping[int, int]) -> None:
        """Publish releases for sagas whose version is registered now; each is folded when its record is read."""
        for waiting, version in self._waiting:
            if (lane := lanes.get(waiting.partition)) is not None:
                transaction.emit(lane, version_registered(self._rules, waiting, version, self._clock.now()))

    def _publish_unowned(self, transaction: Transaction, batch: _Batch, lanes: Mapping[int, int]) -> None:
        """Publish `StepUnowned` for the pending steps; each is folded when its record is read.

        No saga is read for this; the cache is used where it has one, since it is newer than the report.
        """
        batch.unowned = self._unowned.pending
        for saga_id, steps in batch.unowned.items():
            lane, tracked = lanes.get(self._rules.home(saga_id)), self._cache.get(saga_id)
            still = steps if tracked is None else awaited_of(self._rules, tracked, steps)
            if lane is None or not still:
                continue
            for step in sorted(still):
                transaction.emit(lane, step_unowned(self._rules, saga_id, step, self._clock.now()))
            batch.published[saga_id] = still

    def _fold(self, transaction: Transaction, batch: _Batch, saga_id: UUID | None, each: Received) -> None:
        before = batch.known[saga_id] if saga_id is not None else None
        outcome = fold_record(self._rules, before, _after(batch.last, each))
        batch.outcomes.append((transaction.lanes[each.lane], outcome))
        if before is not None and outcome.entry.event_type == self._rules.elapsed:
            batch.deadlines.append((before, outcome))
        after = outcome.tracked
        if after is not None and after is not before:
            batch.known[after.saga_id] = after
            batch.touched[after.saga_id] = each.lane
            for order in outcome.orders:
                transaction.emit(each.lane, command(self._rules, after, order, each.record, self._clock.now()))
        for letter in outcome.dead:
            fault, now = RecordFault(letter.kind, letter.reason), self._clock.now()
            transaction.emit(each.lane, dead_letter(self._rules.saga.name, self.group, letter.record, fault, now))

    async def _write(self, sql: Connection, batch: _Batch) -> None:
        touched = sorted(batch.touched.items())
        await store.write(sql, self._rules, [(lane, batch.known[saga_id]) for saga_id, lane in touched])
        await store.enter(sql, batch.outcomes)
        outcomes = [outcome for _, outcome in batch.outcomes]
        set_aside = [(o.tracked.saga_id, o.parked) for o in outcomes if o.parked is not None and o.tracked is not None]
        await store.park(sql, self.group, set_aside)
        await store.release(sql, self.group, outcomes)

    def _keep(self, tracked: Tracked) -> None:
        """Cache a saga that is open or has parked records; others seldom get another record."""
        if tracked.parked:
            self._parked.add(tracked.saga_id)
        else:
            self._parked.discard(tracked.saga_id)
        snapshot = tracked.snapshot
        if tracked.parked or (snapshot is not None and not snapshot.status.final):
            self._cache.keep(tracked)
        else:
            self._cache.forget(tracked.saga_id)

    def _expect(self, sagas: Iterable[Tracked]) -> None:
        """Schedule the next look at due deadlines for the first of these; the database's clock then decides.

        The time left is computed by this machine's clock and, since that may be slow, by the broker's time of the last
        record.
        """
        pending = [s.snapshot for s in sagas if s.snapshot is not None and s.snapshot.deadline_pending]
        if pending:
            left = min(
                min(each.deadline_ms for each in pending) / 1000 - self._clock.now() / 1_000_000_000,
                min(each.deadline_ms - each.updated_ms for each in pending) / 1000,
            )
            at = elapsed() + left
            self._next_due = at if self._next_due is None else min(at, self._next_due)


def _after(last: dict[int, int], received: Received) -> Record:
    """Return a record with the number of offsets skipped since the last one of its lane, and note it as the last."""
    lane, record = received
    offset = record.offset
    skipped = offset - last.get(lane, offset - 1) - 1
    last[lane] = offset
    return record if skipped <= 0 else record._replace(skipped=skipped)


def _at(seconds: float | None) -> float | None:
    return None if seconds is None else elapsed() + max(0.0, seconds)
