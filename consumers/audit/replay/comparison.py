"""Compares topics with the database: each record with its row of the audit log, each saga with its row."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final
from uuid import UUID

import asyncpg

from tradesaga.consumers.audit.log.checkpoints import read_ends, read_leaf_formats
from tradesaga.consumers.audit.log.fold import Fold, form_at
from tradesaga.consumers.audit.log.log_check import Head
from tradesaga.consumers.audit.log.retired_ranges import read_heads, read_retired
from tradesaga.consumers.audit.log.rows import read_chains, read_span, snapshot, to_row
from tradesaga.consumers.audit.replay.differences import (
    Difference,
    compare_fields,
    compare_rows,
    compare_sagas,
    expected_fields,
    format_value,
)
from tradesaga.consumers.audit.replay.request import Range, Span, find_spans
from tradesaga.consumers.audit.replay.state import (
    NO_PROGRESS,
    ProgressReporter,
    ReplayState,
    SagaCounts,
    Watermark,
    fingerprint,
)
from tradesaga.consumers.saga_log import store
from tradesaga.consumers.saga_log.chain import format_of, hash_row
from tradesaga.consumers.saga_log.reading import Rules, saga_of
from tradesaga.consumers.saga_log.tracked_saga import SagaSnapshot, Tracked
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.postgres.database import Connection, Session
from tradesaga.schemas.envelope import VERSION


async def compare_states(sql: Connection, rules: Rules, sagas: Sequence[Tracked]) -> list[Difference]:
    """Compare sagas with their rows; both are folded to the same offset."""
    stored = await load_stored(sql, rules, [tracked.saga_id for tracked in sagas])
    return [
        difference
        for tracked in sagas
        for difference in compare_sagas(f"saga {tracked.saga_id}", tracked.snapshot, stored.get(tracked.saga_id))
    ]


async def load_stored(sql: Connection, rules: Rules, sagas: Sequence[UUID]) -> dict[UUID, SagaSnapshot | str]:
    """Return sagas by their rows, or the reason why a row cannot be parsed."""
    try:
        return {**await store.load(sql, rules, sagas)}
    except ValueError as error:
        if len(sagas) == 1:
            return {sagas[0]: f"cannot be read: {error}"}
    found: dict[UUID, SagaSnapshot | str] = {}
    for saga_id in sagas:
        found |= await load_stored(sql, rules, [saga_id])
    return found


async def compare_chains(sql: Connection, rules: Rules, sagas: Sequence[Tracked]) -> list[Difference]:
    """Hash the rows of such sagas again and compare the last hash of each chain."""
    started = {tracked.saga_id: tracked.snapshot for tracked in sagas if tracked.snapshot is not None}
    heads = await read_heads(sql, rules.topic, started)
    found: list[Difference] = []
    for row in await read_chains(sql, rules.topic, started):
        head, differences = _chain(heads.get(row["saga_id"], (0, b"")), row)
        heads[row["saga_id"]] = head
        found += differences
    found += (each for saga_id in started for each in _ended(saga_id, started[saga_id], heads.get(saga_id, (0, b""))))
    return found


def _chain(head: Head, row: asyncpg.Record) -> tuple[Head, Iterator[Difference]]:
    record, stored, *_ = to_row(row)
    made = (head[0] + 1, hash_row(head[1], record, stored))
    expected = {
        **expected_fields(record, format_of(stored.hash)),
        "headers": row["headers"],
        "seq": made[0],
        "hash": made[1],
    }
    return made, compare_fields(record, row, expected)


def _ended(saga_id: UUID, mine: SagaSnapshot, found: Head) -> Iterator[Difference]:
    where = f"rows of saga {saga_id}"
    if found[0] != mine.seq:
        yield Difference(where, "number", str(mine.seq), str(found[0]))
    elif found[1] != mine.head:
        yield Difference(where, "last hash", format_value(mine.head), format_value(found[1]))


PAGE: Final = 2000


async def read_log_ends(sql: Session, rules: Rules) -> dict[Partition, int]:
    """Return the offset up to which the saga log has read each partition of the saga's topic, where it is not 0."""
    ends = await read_ends(sql)
    return {place: end for place, end in ends.items() if place[0] == rules.topic and end}


class RowReader:
    """A cursor over the rows of a range, in the caller's transaction.

    Rows before `retired` may be missing. Hashes are of format 2 from the offset `leaves_from`.
    """

    def __init__(self, sql: Session, place: Partition, span: Span, retired: int = 0, leaves_from: int = 0) -> None:
        self.retired = retired
        self._leaves_from = leaves_from
        self._pages = read_span(sql, place, span, page=PAGE)
        self._page: deque[asyncpg.Record] = deque()

    def form_of(self, record: Record, row: asyncpg.Record | None) -> int:
        """Return the format of a record's hash by its row, or by its offset if the row was retired."""
        if row is not None:
            return format_of(row["hash"])
        return form_at(record.offset, self._leaves_from)

    async def up_to(self, offset: int) -> list[asyncpg.Record]:
        """Return the next rows up to this offset."""
        found: list[asyncpg.Record] = []
        while True:
            while self._page and self._page[0]["offset"] <= offset:
                found.append(self._page.popleft())
            if self._page or not await self._turn():
                return found

    async def _turn(self) -> bool:
        self._page.extend(await anext(self._pages, None) or ())
        return bool(self._page)


SHOWN: Final = 100
"""The maximum number of differences that are listed; further ones are counted."""

_CHUNK: Final = 1000

_SAGAS: Final = "SELECT count(*) FROM saga WHERE name = $1"


@dataclass
class ReplayReport(SagaCounts):
    """The result of a comparison.

    `partial` sagas have records before the range, or run under a version that is not registered; `gone_on` sagas have
    records after the range. Of both, only the rows are compared, not the state.
    """

    records: int = 0
    partial: int = 0
    partial_sagas: list[UUID] = field(default_factory=list[UUID])
    gone_on: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list[Difference])


class RowComparer:
    """Folds records and compares each with its row; `report` is called with the differences."""

    def __init__(
        self, rules: Rules, replay_state: ReplayState, report: Callable[[Iterable[Difference]], object]
    ) -> None:
        self._state = replay_state
        self._partial = replay_state.partial_sagas
        self._fold = Fold(rules, replay_state.sagas)
        self._versions = {b"0", *(b"%d" % version for version in rules.versions)}
        self._report = report

    async def take(self, rows: RowReader, batch: list[Record], *, midway: bool) -> set[UUID]:
        """Compare the next records of a partition; return the sagas whose state they may have changed.

        `midway` is whether reading began after the partition's first record; the number of offsets skipped before the
        first record read is then taken from its row.
        """
        there = iter(await rows.up_to(batch[-1].offset))
        row = next(there, None)
        touched: set[UUID] = set()
        for record in batch:
            while row is not None and row["offset"] < record.offset:
                self._report([_extra(record, row)])
                row = next(there, None)
            mine = row if row is not None and row["offset"] == record.offset else None
            if mine is not None and midway and record is batch[0] and record[:2] not in self._state.watermarks:
                record = record._replace(skipped=mine["skipped"] or 0)  # noqa: PLW2901 - the same one
            found = self._compare(record, mine, rows.form_of(record, mine), touched, midway=midway)
            if found and (mine is not None or record.offset >= rows.retired):
                self._report(found)
            row = next(there, None) if mine is not None else row
        while row is not None:
            self._report([_extra(batch[-1], row)])
            row = next(there, None)
        self._state.add("records", len(batch))
        self._state.watermarks[batch[-1][:2]] = Watermark(batch[-1].offset + 1, fingerprint(batch[-1]))
        return touched

    def _compare(
        self, record: Record, row: asyncpg.Record | None, form: int, touched: set[UUID], *, midway: bool
    ) -> Iterable[Difference]:
        if (saga_id := saga_of(record)) is not None and (
            saga_id in self._partial
            or (midway and self._is_partial(saga_id, record, row))
            or self._is_of_unknown_version(record, row)
        ):
            return list(self._partial.take(saga_id, record, row, form))
        outcome = self._fold.take(record, form, row["error"] if row is not None else None)
        if outcome.tracked is not None and outcome.tracked.home == record.partition:
            touched.add(outcome.tracked.saga_id)
        return compare_rows(outcome, row)

    def _is_partial(self, saga_id: UUID, record: Record, row: asyncpg.Record | None) -> bool:
        """Return whether the saga began before the range."""
        if record.key != str(saga_id).encode() or self._state.sagas.get(saga_id) is not None:
            return False
        return row is None or row["seq"] != 1

    def _is_of_unknown_version(self, record: Record, row: asyncpg.Record | None) -> bool:
        """Return whether another release has folded the start of a saga of a version that is not registered."""
        version = record.header(VERSION)
        return version.isdigit() and version not in self._versions and row is not None and row["seq"] == 1


@dataclass
class Comparison:
    """Compares a saga's events topic with one snapshot of the database, up to where the saga log has read."""

    sql: Session
    replay: TopicReader
    rules: Rules
    replay_state: ReplayState
    reporter: ProgressReporter = NO_PROGRESS
    asked: Range = field(default_factory=Range)

    async def run(self) -> ReplayReport:
        """Replay and compare.

        Raises `CommandError`: exit 4 if the topic has a gap or is not that of the saved state, exit 2 for a range that
        the topic does not have; and `KafkaUnavailableError`.
        """
        async with snapshot(self.sql):
            log_ends = await read_log_ends(self.sql, self.rules)
            held = await self.replay.ranges(log_ends)
            await self.replay_state.check(self.replay, held)
            self.replay_state.differ(compare_ends(log_ends, held))
            spans = await find_spans(self.replay, self.asked, _until(held, log_ends))
            self.reporter.sized(sum(end - begin for begin, end in spans.values()))
            retired, leaves_from = await read_retired(self.sql), await read_leaf_formats(self.sql)
            for place, span in spans.items():
                await self._follow(place, span, retired.get(place, 0), leaves_from.get(place, 0))
            report = await self._compare_sagas(spans, log_ends)
        self.replay_state.save()
        report.records = self.replay_state.counts.get("records", 0)
        report.differing = self.replay_state.counts.get("differing", 0)
        report.differences = self.replay_state.differences(SHOWN)
        return report

    async def _follow(self, place: Partition, span: Span, retired: int, leaves_from: int) -> None:
        """Fold one partition and compare each record with its row."""
        watermark = self.replay_state.watermarks.get(place)
        start = self.replay_state.next_offset(place, span[0])
        self.reporter.advance(start - span[0])
        rows = RowReader(self.sql, place, (start, span[1]), retired, leaves_from)
        comparer = RowComparer(self.rules, self.replay_state, self.replay_state.differ)
        resumed = watermark is not None and start == watermark.next_offset
        async for batch in self.replay.read(place, start, span[1], resumed=resumed):
            await comparer.take(rows, batch, midway=span[0] > 0)
            self.reporter.advance(len(batch))

    async def _compare_sagas(self, spans: Mapping[Partition, Span], log_ends: Mapping[Partition, int]) -> ReplayReport:
        report = ReplayReport()
        name, partial_sagas = self.rules.saga.name, self.replay_state.partial_sagas.heads
        to_the_end = {place[1] for place, span in spans.items() if span[1] == log_ends[place]}
        sagas = iter(self.replay_state.sagas)
        while chunk := list(islice(sagas, _CHUNK)):
            stored = await load_stored(self.sql, self.rules, [tracked.saga_id for tracked in chunk])
            for tracked in chunk:
                report.count(tracked)
                theirs = stored.get(tracked.saga_id)
                if tracked.home not in to_the_end and _goes_on(tracked, theirs):
                    report.gone_on += 1
                else:
                    self.replay_state.differ(compare_sagas(f"saga {tracked.saga_id}", tracked.snapshot, theirs))
        report.partial, report.partial_sagas = len(partial_sagas), list(islice(partial_sagas, SHOWN))
        if len(to_the_end) == len(log_ends) and not partial_sagas and not any(begin for begin, _ in spans.values()):
            stored = await self.sql.fetchval(_SAGAS, name)
            if stored != report.sagas:
                self.replay_state.differ([Difference(name, "number of sagas", str(report.sagas), str(stored))])
        return report


def compare_ends(log_ends: Mapping[Partition, int], held: Mapping[Partition, Span]) -> Iterator[Difference]:
    """Yield partitions that end before the saga log's offset: the topic was replaced or recreated."""
    for place, end in log_ends.items():
        if held[place][1] < end:
            yield Difference(f"{place[0]}[{place[1]}]", "next offset", str(held[place][1]), str(end))


def _until(held: Mapping[Partition, Span], log_ends: Mapping[Partition, int]) -> dict[Partition, Span]:
    """Return the range of each partition that both the topic and the saga log have."""
    return {place: (begin, max(begin, min(end, log_ends[place]))) for place, (begin, end) in held.items()}


def _goes_on(tracked: Tracked, stored: SagaSnapshot | str | None) -> bool:
    """Return whether the row includes later records."""
    seq = tracked.snapshot.seq if tracked.snapshot is not None else 0
    return isinstance(stored, SagaSnapshot) and stored.seq > seq


def _extra(record: Record, row: asyncpg.Record) -> Difference:
    where = f"{record.topic}[{record.partition}] offset {row['offset']}"
    return Difference(where, "row", "missing", "there")
