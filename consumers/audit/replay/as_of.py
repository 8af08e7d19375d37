"""The state of all sagas at a time in the past, folded from the topics alone."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from tradesaga.consumers.audit.log.fold import Fold
from tradesaga.consumers.audit.replay.request import TIMES, AsOf
from tradesaga.consumers.audit.replay.state import (
    NO_PROGRESS,
    ProgressReporter,
    ReplayState,
    SagaCounts,
    Watermark,
    fingerprint,
)
from tradesaga.consumers.saga_log.reading import Rules, saga_of
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.clock import format_time
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.sagas.machine import State


@dataclass
class AsOfResult(SagaCounts):
    """Counts of the records up to a time and of `later` ones. The sagas are in the replay's state."""

    records: int = 0
    later: int = 0
    gone: dict[str, int] = field(default_factory=dict[str, int])
    """The first offset of each partition that does not begin at 0."""


@dataclass
class AsOfReplay:
    """Folds a topic up to a time."""

    replay: TopicReader
    rules: Rules
    replay_state: ReplayState
    as_of: AsOf
    reporter: ProgressReporter = NO_PROGRESS

    async def run(self) -> AsOfResult:
        """Fold the topic. Raises `CommandError` (exit 4) if it has a gap, and `KafkaUnavailableError`."""
        places: list[Partition] = [(self.rules.topic, number) for number in self._partitions()]
        held = await self.replay.ranges(places)
        await self.replay_state.check(self.replay, held)
        self.reporter.sized(sum(end - begin for begin, end in held.values()))
        fold, known = Fold(self.rules, self.replay_state.sagas), AsOfResult()
        for place, (begin, end) in held.items():
            start = self.replay_state.next_offset(place, begin)
            self.reporter.advance(start - begin)
            async for batch in self.replay.read(place, start, end):
                self._take(fold, batch)
                self.reporter.advance(len(batch))
            self.replay_state.save()
        known.records, known.later = (self.replay_state.counts.get(name, 0) for name in ("records", "later"))
        known.gone = {f"{topic}[{number}]": begin for (topic, number), (begin, _) in held.items() if begin}
        for tracked in self.replay_state.sagas:
            known.count(tracked)
        return known

    def _partitions(self) -> list[int]:
        """Return the partitions to read: all, or that of the one saga."""
        saga_id = self.as_of.saga_id
        return list(range(self.rules.partitions)) if saga_id is None else [self.rules.home(saga_id)]

    def _take(self, fold: Fold, batch: list[Record]) -> None:
        at, saga_id, time = self.as_of.at, self.as_of.saga_id, TIMES[self.as_of.clock]
        meant = [record for record in batch if saga_id is None or saga_of(record) == saga_id]
        found = [record for record in meant if time(record) <= at]
        for record in found:
            fold.take(record)
        self.replay_state.add("records", len(found))
        self.replay_state.add("later", len(meant) - len(found))
        self.replay_state.watermarks[batch[-1][:2]] = Watermark(batch[-1].offset + 1, fingerprint(batch[-1]))


def describe_sagas(rules: Rules, replay_state: ReplayState) -> Iterator[dict[str, Any]]:
    """Yield each saga with its state, steps and context."""
    for tracked in replay_state.sagas:
        yield _described(rules, tracked)


def _described(rules: Rules, tracked: Tracked) -> dict[str, Any]:
    checkpoint, waiting = tracked.snapshot, len(tracked.parked)
    if checkpoint is None:
        return {"saga_id": str(tracked.saga_id), "state": None, "parked": waiting, "why": tracked.parked[0].reason}
    rules = rules.under(checkpoint.version)
    return {
        "saga_id": str(tracked.saga_id),
        "version": checkpoint.version,
        "state": checkpoint.status.value,
        "steps": {step.name: step_status(checkpoint.state, index) for index, step in enumerate(rules.saga.steps)},
        "records": checkpoint.seq,
        "started": format_time(checkpoint.created_ms * 1_000_000),
        "updated": format_time(checkpoint.updated_ms * 1_000_000),
        "parked": waiting,
        "why": tracked.parked[0].reason if waiting else rules.cause(checkpoint.state),
        "context": orjson.loads(checkpoint.context),
    }


def step_status(state: State, index: int) -> str:
    """Return the status of one step in a word."""
    bit = 1 << index
    if state.compensated & bit:
        return "compensated"
    if state.done & bit:
        failed = state.undo_failed[index] == state.undo_rounds[index]
        return "skipped" if state.skipped & bit else "compensation failed" if failed else "done"
    for word, steps in (("refused", state.refused), ("barred", state.barred)):
        if steps & bit:
            return word
    if state.failed[index] == state.rounds[index]:
        return "failed"
    return "unknown" if state.unknown & bit else "open"
