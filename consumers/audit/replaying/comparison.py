"""`audit replay` on real servers: the topics up to where the saga log is, against the database of that same moment."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

from consumers.audit.replaying.differences import Difference, compare_rows, compare_sagas
from consumers.audit.replaying.folding import Replayed
from consumers.audit.replaying.shelf import Shelf
from consumers.audit.rows import snapshot
from consumers.saga_log import store
from consumers.saga_log.checkpoint import Tracked
from consumers.saga_log.rules import Rules
from infra.database import Session
from infra.kafka import Place
from infra.replay import Replay

SHOWN: Final = 100
"""Differences that are told one by one; beyond that they are counted."""
_CHUNK: Final = 1000
_ENDS: Final = 'SELECT partition, next_offset FROM lane WHERE "group" = $1 AND topic = $2'
_SAGAS: Final = "SELECT count(*) FROM saga WHERE name = $1"
_ROWS: Final = """
SELECT "offset", (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_ms, saga_id, seq, event_type, step_name,
    event_time, started, context_added, error, headers, value, hash
FROM saga_event WHERE topic = $1 AND partition = $2 AND "offset" >= $3 AND "offset" < $4 ORDER BY "offset"
"""

T = TypeVar("T")


@dataclass
class ReplayReport:
    """What a replay has found: records and sagas compared, and what differs."""

    records: int = 0
    sagas: int = 0
    states: dict[str, int] = field(default_factory=dict[str, int])
    parked: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list[Difference])

    def add(self, found: Iterable[Difference]) -> None:
        """Take differences down."""
        for each in found:
            self.differing += 1
            if len(self.differences) < SHOWN:
                self.differences.append(each)

    def count(self, tracked: Tracked) -> None:
        """Count a saga by what has become of it."""
        self.sagas += tracked.checkpoint is not None
        self.parked += bool(tracked.parked)
        if tracked.checkpoint is not None:
            state = tracked.checkpoint.status.value
            self.states[state] = self.states.get(state, 0) + 1


@dataclass
class Comparing:
    """One comparison of a saga's events topic, up to where its log is, with the database of that same moment.

    `sized` is told how many records there are, `advance` how many more have been read.
    """

    sql: Session
    replay: Replay
    rules: Rules
    sized: Callable[[int], None]
    advance: Callable[[int], None]
    report: ReplayReport = field(default_factory=ReplayReport)

    async def run(self) -> ReplayReport:
        """Replay and compare.

        Raises `CommandError` (exit 4) where the topic has a gap, `KafkaUnavailableError`.
        """
        async with snapshot(self.sql):
            spans = await self._look()
            self.sized(sum(end - begin for begin, end in spans.values()))
            for place, span in spans.items():
                with Shelf(self.rules.machine) as shelf:
                    replayed = Replayed(self.rules, shelf)
                    await self._follow(replayed, place, span)
                    await self._compare_sagas(replayed)
            stored = await self.sql.fetchval(_SAGAS, self.rules.saga.name)
        if stored != self.report.sagas:
            self.report.add([Difference(self.rules.saga.name, "number of sagas", str(self.report.sagas), str(stored))])
        return self.report

    async def _look(self) -> dict[Place, tuple[int, int]]:
        """Give the span of offsets of each partition, from the topic's first to where the saga log is."""
        topic = self.rules.topic
        ends = await self.sql.fetch(_ENDS, f"{self.rules.saga.name}-log", topic)
        begins = await self.replay.ranges([(topic, row["partition"]) for row in ends])
        return {
            (topic, row["partition"]): (begins[topic, row["partition"]][0], row["next_offset"])
            for row in ends
            if row["next_offset"]
        }

    async def _follow(self, replayed: Replayed, place: Place, span: tuple[int, int]) -> None:
        """Fold one partition, each record beside its row of the audit log."""
        rows = aiter(self.sql.cursor(_ROWS, *place, *span, prefetch=_CHUNK))
        row = await anext(rows, None)
        async for batch in self.replay.read(place, *span):
            for record in batch:
                there = row is not None and row["offset"] == record.offset
                self.report.add(compare_rows(replayed.take(record), row if there else None))
                row = await anext(rows, None) if there else row
            self.report.records += len(batch)
            self.advance(len(batch))
        while row is not None:
            where = f"{place[0]}[{place[1]}] offset {row['offset']}"
            self.report.add([Difference(where, "row", "missing", "there")])
            row = await anext(rows, None)

    async def _compare_sagas(self, replayed: Replayed) -> None:
        for chunk in _batched(replayed.sagas(), _CHUNK):
            stored = await store.load(self.sql, self.rules, [tracked.saga_id for tracked in chunk])
            for tracked in chunk:
                self.report.count(tracked)
                found = compare_sagas(f"saga {tracked.saga_id}", tracked.checkpoint, stored.get(tracked.saga_id))
                self.report.add(found)


def _batched(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Give the items in lists of `size`, the last one shorter."""
    while batch := list(islice(items, size)):
        yield batch
