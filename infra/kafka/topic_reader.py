"""Reading and rewriting topics, partition by partition, without a consumer group.

aiokafka is untyped in part.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, NamedTuple, Self
from uuid import uuid4

from tradesaga.infra.clock import elapsed
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.codec import Record, publishable, to_record
from tradesaga.infra.kafka.connections import (
    HeaderNameError,
    KafkaUnavailableError,
    MappedConsumer,
    MappedProducer,
    Partition,
    translated_errors,
)
from tradesaga.infra.kafka.inspector import Inspector
from tradesaga.infra.kafka.names import physical_name
from tradesaga.infra.kafka.topics import read_removals

_STEP: Final = 100
"""Records of each partition in the first step; each further step is `_GROWTH` times as long."""
_GROWTH: Final = 4


class ReadLimit(NamedTuple):
    """How far back to read: records of each partition, and bytes of all partitions together."""

    records: int
    size: int


async def read_back(
    inspector: Inspector,
    ranges: Mapping[Partition, tuple[int, int]],
    bound: ReadLimit,
    take: Callable[[Sequence[Record]], None],
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Pass the records of these ranges to `take`, backwards from their ends, until `enough` or the limit.

    Records are read in steps, the last ones first; within a step those of a partition are in order. Where the byte
    limit ends a step early, the missing records are older than those of all earlier steps. Raises
    `KafkaUnavailableError`.
    """
    depth, step, size = 0, _STEP, 0
    deepest = min(bound.records, max((end - first for first, end in ranges.values()), default=0))
    while depth < deepest and not enough():
        deeper = min(deepest, depth + step)
        piece = {place: (max(first, end - deeper), max(first, end - depth)) for place, (first, end) in ranges.items()}
        async with aclosing(inspector.scan(piece)) as pages:
            async for page in pages:
                take(page)
                size += sum(record.size + len(record.key or b"") for record in page)
                if size >= bound.size:
                    return
        depth, step = deeper, step * _GROWTH


LARGEST: Final = 5000
"""Maximum number of offsets that one transaction occupies."""

_FILLER: Final = b"fills offsets that a transaction took before this topic was rewritten"


class TransactionWriter:
    """Writes single transactions while it is entered; connects for the first one. Raises `KafkaUnavailableError`.

    Data records get the time `recorded_ms`; the control record gets the broker's.
    """

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers
        self._opened: MappedProducer | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            await self._opened.stop()

    async def commit(self, record: Record) -> None:
        """Write a record at its offset and skip the next one."""
        await self._transact([record], commits=True)

    async def skip(self, place: Partition, first: int, count: int, recorded_ms: int) -> None:
        """Skip `count` offsets, at least two, from `first` on."""
        while count:
            taken = count if count <= LARGEST else min(LARGEST, count - 2)
            offsets = range(first, first + taken - 1)
            fillers = [Record(*place, offset, recorded_ms, None, _FILLER, []) for offset in offsets]
            await self._transact(fillers, commits=False)
            first, count = first + taken, count - taken

    async def _transact(self, records: list[Record], *, commits: bool) -> None:
        with translated_errors("a transaction failed"):
            producer = await self._producer()
            await producer.begin_transaction()
            sent = [await _send(producer, record) for record in records]
            written = await asyncio.gather(*sent)
            await (producer.commit_transaction() if commits else producer.abort_transaction())
        for record, landed in zip(records, written, strict=True):
            _check_offset(record.offset, landed)

    async def _producer(self) -> MappedProducer:
        if self._opened is None:
            producer = MappedProducer(
                self._brokers,
                client_id="tradesaga-rewriter",
                transactional_id=f"tradesaga-rewriter-{uuid4().hex}",
                request_timeout_ms=20_000,
            )
            await producer.start()
            self._opened = producer
        return self._opened


async def _send(producer: MappedProducer, record: Record) -> "asyncio.Future[Any]":
    return await producer.send(
        record.topic,
        None if record.tombstone else record.value,
        key=record.key,
        headers=publishable(record.headers),
        partition=record.partition,
        timestamp_ms=record.recorded_ms,
    )


BATCH: Final = 2000
_UNACKED: Final = 5000
_SILENCE: Final = 20.0
"""Seconds to wait for an expected record."""
_WRITERS_CLOCK: Final = 0
"""The timestamp type of a record that has kept its writer's time."""


class TopicReader:
    """Reads partitions between two offsets while it is entered. Every method raises `KafkaUnavailableError`."""

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers
        self._whole: dict[str, bool] = {}
        """By topic, whether only transactions leave gaps in it."""
        self._consumer = MappedConsumer(
            brokers,
            client_id="tradesaga-replay",
            # Removed records show as a gap; with `latest` the reader would skip everything.
            auto_offset_reset="earliest",
            request_timeout_ms=20_000,
            # A fetch that waits at the end of one partition would delay the first fetch of the next.
            fetch_max_wait_ms=10,
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )

    async def __aenter__(self) -> Self:
        with translated_errors():
            await self._consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        task = asyncio.current_task()
        try:
            await self._consumer.stop()
        except asyncio.CancelledError:
            # Stopped before its tasks have begun, aiokafka lets their cancellation escape.
            if task is None or task.cancelling():
                raise

    async def ranges(self, places: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return the first and the next offset of each partition."""
        return await self._consumer.ranges(places)

    async def first_at(self, times: Mapping[Partition, int]) -> dict[Partition, int]:
        """Return the first offset of each partition at or after a time, milliseconds since 1970.

        A partition without such a record is left out.
        """
        with translated_errors():
            found = await self._consumer.offsets_for_times(times)
        ends = await self.ranges(found)
        # The broker may have found a control record, which has a time of its own.
        firsts = {place: await self._first_at(place, at, ends[place][1], times[place]) for place, at in found.items()}
        return {place: first for place, first in firsts.items() if first is not None}

    async def _first_at(self, place: Partition, start: int, end: int, time: int) -> int | None:
        async for batch in self.read_remaining(place, start, end):
            for record in batch:
                if record.recorded_ms >= time:
                    return record.offset
        return None

    async def read(
        self, place: Partition, start: int, end: int, *, resumed: bool = False
    ) -> AsyncGenerator[list[Record]]:
        """Yield the records of a partition from `start` up to, but not including, `end`, in batches.

        Offsets of control records and of aborted transactions are counted as skipped in the next record; before the
        first record only if `resumed`, that is, if the record at `start - 1` was read. Raises `CommandError` (exit 4)
        where a record is missing.
        """
        following = start
        async for batch in self.read_remaining(place, start, end, resumed=resumed):
            if (missing := _first_missing(batch, following)) is not None:
                await self._explain_gap(place, missing)
            following = batch[-1].offset + 1
            yield batch
        if following < end:
            await self._explain_gap(place, following)

    async def _explain_gap(self, place: Partition, offset: int) -> None:
        """Raise `CommandError` (exit 4) if the broker has removed a record, rather than a transaction's marker."""
        topic = place[0]
        if topic not in self._whole:
            self._whole[topic] = "compact" not in (await read_removals(self._brokers, [topic])).get(topic, "")
        if not self._whole[topic] or offset < (await self.ranges([place]))[place][0]:
            raise _gap(physical_name(self._brokers, topic), place[1], offset)

    async def read_remaining(
        self, place: Partition, start: int, end: int, *, resumed: bool = False
    ) -> AsyncGenerator[list[Record]]:
        """Yield, as `read` does, those of these records that still exist."""
        following, named = start, f"{physical_name(self._brokers, place[0])}[{place[1]}]"
        last = start - 1 if resumed else None
        if start >= end:
            return
        with translated_errors(named):
            self._consumer.assign([place])
            self._consumer.seek(place, start)
            moved = elapsed()
            while following < end:
                found = await self._fetch(place, following)
                batch = [to_record(place[0], record) for record in found if following <= record.offset < end]
                if batch:
                    _count_skipped(batch, last)
                    last = batch[-1].offset
                    yield batch
                after = found[-1].offset + 1 if found else await self._consumer.position(place)
                if after > following:
                    following, moved = after, elapsed()
                elif elapsed() - moved > _SILENCE:
                    raise KafkaUnavailableError(f"{named}: no record from offset {following} on was returned")
            self._consumer.pause(place)  # otherwise it would keep fetching what comes next, a hundred times a second

    async def _fetch(self, place: Partition, following: int) -> Sequence[Any]:
        try:
            found = await self._consumer.getmany(place, timeout_ms=1000, max_records=BATCH)
        except HeaderNameError:
            self._consumer.assign([place])
            self._consumer.seek(place, following)
            return ()
        return found.get(place, ())


class TopicRewriter:
    """Writes records back at their offsets and times; the topic must accept the writer's times meanwhile."""

    def __init__(self, brokers: str) -> None:
        self._producer = MappedProducer(
            brokers,
            client_id="tradesaga-rewriter",
            enable_idempotence=True,
            linger_ms=20,
            max_batch_size=512 * 1024,
            request_timeout_ms=20_000,
        )
        self._acks: deque[tuple[int | None, asyncio.Future[Any]]] = deque()

    async def __aenter__(self) -> Self:
        with translated_errors():
            await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def write(self, record: Record, *, exact: bool) -> None:
        """Send a record to its partition; with `exact` it must get its offset, or `drain` raises."""
        with translated_errors(self._producer.cluster.physical(record.topic)):
            future = await _send(self._producer, record)
        self._acks.append((record.offset if exact else None, future))
        if len(self._acks) > _UNACKED:
            await self._await_acks(_UNACKED // 2)

    async def drain(self) -> None:
        """Wait for all acknowledgements. Raises `CommandError` (exit 4) if a record got another offset or time."""
        await self._await_acks(0)

    async def _await_acks(self, left: int) -> None:
        while len(self._acks) > left:
            wanted, future = self._acks.popleft()
            with translated_errors():
                written = await future
            if wanted is not None:
                _check_offset(wanted, written)
                if written.timestamp_type != _WRITERS_CLOCK:
                    what = "the broker replaced a record's time: message.timestamp.type has not changed yet"
                    raise _damaged("topic-clock", what, written)


def _check_offset(wanted: int, written: Any) -> None:
    if written.offset != wanted:
        what = f"a record of offset {wanted} was written at {written.offset}: another writer is active"
        raise _damaged("offset-taken", what, written)


def _damaged(code: str, what: str, written: Any) -> CommandError:
    """Return the error (exit 4) for a record that got another offset or time than it had."""
    do = "stop all writers, delete the topics, and run this again"
    return CommandError(code, what, f"{written.topic}[{written.partition}]", do, ExitCode.REFUSED)


def _count_skipped(batch: list[Record], last: int | None) -> None:
    """Set in each record the number of offsets skipped before it; `last` is the offset before the batch, if any."""
    for place, record in enumerate(batch):
        if last is not None and record.offset > last + 1:
            batch[place] = record._replace(skipped=record.offset - last - 1)
        last = record.offset


def _first_missing(batch: Sequence[Record], following: int) -> int | None:
    """Return the first offset from `following` on that no record of the batch has, None if there is none."""
    for record in batch:
        if record.offset != following:
            return following
        following += 1
    return None


def _gap(topic: str, partition: int, offset: int) -> CommandError:
    do = "restore a database backup and `tradesaga recover restored`, or another copy of the topic"
    what = f"the topic has a gap: offset {offset} is missing"
    return CommandError("topic-gap", what, f"{topic}[{partition}]", do, ExitCode.REFUSED)
