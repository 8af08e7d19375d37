# ruff: noqa: ARG002 - the listener's signature is aiokafka's
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportIncompatibleMethodOverride=false
"""The edge to aiokafka, which is untyped in part: a producer and a consumer with the settings that are safe here.

aiokafka's defaults lose records (acks=1, latest, auto-commit); docs/decisions/0002 lists what is set here, and why.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from aiokafka.partitioner import DefaultPartitioner

from tradesaga.infra.clock import elapsed
from tradesaga.infra.kafka.codec import Outgoing, Record, RecordChecksum, checksum
from tradesaga.infra.kafka.connections import MappedConsumer, MappedProducer, Place
from tradesaga.infra.kafka.lenient_records import read_leniently
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.schemas.envelope import Header

Wants = Callable[[str, Sequence[Header]], bool]
"""Says, from a record's topic and headers, whether the reader has any use for it."""


_BATCH_BYTES = 128 * 1024
_ALONE = _BATCH_BYTES // 4
"""Bytes from which a record is sent by itself."""
_SEVERAL = 4
"""Records for one partition from which they are sent as a batch of ours."""
READ_COMMITTED = "read_committed"
"""How all of ours read: records of aborted transactions do not exist, those of open ones do not yet."""
_LOOK_EVERY = 0.5
"""Seconds between two looks at the positions of partitions that bring no records."""


class KafkaUnavailableError(Exception):
    """The broker did not answer, or did not take a record; what was sent may or may not be there."""


REFUSALS = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidTimestampError)
"""Errors that say of a record that it will never be taken, whoever sends it."""


class Polled(NamedTuple):
    """What a poll has brought of one partition: the offset to read on from, the wanted records before it.

    `last` is what the last record read is recognised by; None where only control records were passed.
    """

    following: int
    records: list[Record]
    last: RecordChecksum | None


class Producer:
    """An idempotent producer. Once it has failed it is thrown away: it may be poisoned for good (aiokafka#1017)."""

    def __init__(self, brokers: str, client_id: str) -> None:
        self._counts: dict[str, int] = {}
        self._producer = MappedProducer(
            brokers,
            client_id=client_id,
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=_BATCH_BYTES,
            request_timeout_ms=20_000,
            partitioner=_Partitioner(),
        )

    async def start(self) -> None:
        """Connect. Raises `KafkaUnavailableError`."""
        try:
            await self._producer.start()
        except asyncio.CancelledError:
            await self.stop()
            raise
        except (KafkaError, OSError) as error:
            await self.stop()
            raise KafkaUnavailableError(str(error) or type(error).__name__) from error

    async def stop(self) -> None:
        """Flush and disconnect; what cannot be flushed is left to the next owner of its lane."""
        await self._producer.stop()

    async def send(self, topic: str, key: bytes, value: bytes, headers: Sequence[Header]) -> asyncio.Future[Any]:
        """Queue one record; the future resolves when the broker has it, or refuses it (`REFUSALS`).

        Raises `KafkaUnavailableError`.
        """
        try:
            future = await self._producer.send(topic, value, key=key, headers=list(headers))
        except REFUSALS as error:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
        except (KafkaError, OSError) as error:
            raise KafkaUnavailableError(f"{self._physical(topic)}: {error}") from error
        return future

    async def send_all(self, records: Sequence[Outgoing]) -> list[asyncio.Future[Any]]:
        """Queue records, those of each partition in their order; a future for each, as `send` gives it.

        Several for one partition go as batches of ours: one by one they take aiokafka three times as long. What would
        fill a batch by itself goes by itself, so that it is refused alone. Raises `KafkaUnavailableError`.
        """
        acks: dict[int, asyncio.Future[Any]] = {}
        for (topic, partition), places in (await self._sort(records)).items():
            few = len(places) < _SEVERAL
            waiting: list[int] = []
            for place in places:
                record = records[place]
                if few or record.size + len(record.key) > _ALONE:
                    acks |= await self._send_batch(topic, partition, records, waiting)
                    waiting = []
                    acks[place] = await self.send(topic, record.key.encode(), record.value, record.headers)
                else:
                    waiting.append(place)
            acks |= await self._send_batch(topic, partition, records, waiting)
        return [acks[place] for place in range(len(records))]

    async def _sort(self, records: Sequence[Outgoing]) -> dict[Place, list[int]]:
        """Give the places of the records that go to each partition."""
        counts = {topic: await self._count_partitions(topic) for topic in {record.topic for record in records}}
        found: dict[Place, list[int]] = {}
        for place, record in enumerate(records):
            partition = partition_of(record.key.encode(), counts[record.topic])
            found.setdefault((record.topic, partition), []).append(place)
        return found

    async def _count_partitions(self, topic: str) -> int:
        try:
            count = await self._producer.count_partitions(topic)
        except (KafkaError, OSError) as error:
            raise KafkaUnavailableError(f"{self._physical(topic)}: {error}") from error
        # A key keeps its partition for the life of this producer; the next one is made after the topics are checked.
        if (known := self._counts.setdefault(topic, count)) != count:
            raise KafkaUnavailableError(f"{self._physical(topic)} has {count} partitions now, and had {known}")
        return count

    async def _send_batch(
        self, topic: str, partition: int, records: Sequence[Outgoing], places: Sequence[int]
    ) -> dict[int, asyncio.Future[Any]]:
        """Queue these records of one partition, in as many batches as they take."""
        acks: dict[int, asyncio.Future[Any]] = {}
        left = list(places)
        while left:
            batch = self._producer.create_batch()
            taken = 0
            for place in left:
                record = records[place]
                if not batch.append(
                    timestamp=None, key=record.key.encode(), value=record.value, headers=record.headers
                ):
                    break
                taken += 1
            try:
                ack = await self._producer.send_batch(batch, topic, partition=partition)
            except (KafkaError, OSError) as error:
                raise KafkaUnavailableError(f"{self._physical(topic)}: {error}") from error
            acks |= dict.fromkeys(left[:taken], ack)
            left = left[taken:]
        return acks

    def _physical(self, topic: str) -> str:
        return self._producer.cluster.physical(topic)


class Consumer:
    """A member of a consumer group that commits nothing by itself and starts at the beginning."""

    def __init__(self, brokers: str, group: str, topics: Collection[str], client_id: str, session_ms: int) -> None:
        self._topics = list(topics)
        self._passed: dict[Place, int] = {}
        self._looked = 0.0
        # Range keeps partition n of events and of commands with one member, so that a saga has one owner in a group.
        self._consumer = MappedConsumer(
            brokers,
            group=group,
            client_id=client_id,
            enable_auto_commit=False,
            isolation_level=READ_COMMITTED,
            auto_offset_reset="earliest",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=max(300, session_ms // 5),
            rebalance_timeout_ms=max(15_000, session_ms),
            max_poll_interval_ms=300_000,
            max_partition_fetch_bytes=512 * 1024,
            fetch_max_wait_ms=100,
            request_timeout_ms=20_000,
            metadata_max_age_ms=60_000,
            partition_assignment_strategy=(RangePartitionAssignor,),
        )

    async def start(
        self, on_revoked: Callable[[], Awaitable[None]], on_assigned: Callable[[], Awaitable[None]]
    ) -> None:
        """Join the group. Raises `KafkaUnavailableError`.

        Records may be delivered before `on_assigned` has run: whoever polls must gate them.
        """
        self._consumer.subscribe(self._topics, listener=_Listener(on_revoked, on_assigned))
        try:
            await self._consumer.start()
        except asyncio.CancelledError:
            await self.stop()
            raise
        except (KafkaError, OSError) as error:
            await self.stop()
            raise KafkaUnavailableError(str(error) or type(error).__name__) from error

    async def stop(self) -> None:
        """Leave the group."""
        await self._consumer.stop()

    def assignment(self) -> set[Place]:
        """Give the partitions that are this member's now."""
        return self._consumer.assignment()

    def seek(self, place: Place, offset: int) -> None:
        """Read on from `offset`; what was fetched ahead is dropped. Raises `KafkaUnavailableError` if not assigned."""
        try:
            self._consumer.seek(place, offset)
        except IllegalStateError as error:
            raise KafkaUnavailableError(f"{place} is assigned to another member now") from error
        self._passed[place] = offset

    async def poll(self, wants: Wants, timeout_ms: int, limit: int) -> dict[Place, Polled]:
        """Wait for records; return what was read by partition: the wanted records, and where to read on.

        A partition that has nothing but control records and aborted ones to pass comes without any record. Never
        cancel this: a cancelled `getmany` stops the enforcement of `max_poll_interval` for good. Raises
        `KafkaUnavailableError`.
        """
        try:
            fetched = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=limit)
        except UnicodeDecodeError as error:
            read_leniently()
            raise KafkaUnavailableError("a header's name is no UTF-8; reading once more, with escapes") from error
        except (KafkaError, OSError) as error:
            raise KafkaUnavailableError(str(error) or type(error).__name__) from error
        await self._check_deleted(fetched)
        found: dict[Place, Polled] = {}
        for place, records in fetched.items():
            topic, following = place[0], records[-1].offset + 1
            self._passed[place] = following
            wanted = [to_record(topic, each) for each in records if wants(topic, each.headers)]
            last = records[-1]
            seen = checksum(last.offset, last.timestamp, last.key, last.value)
            found[place] = Polled(following, wanted, seen)
        if not found or elapsed() - self._looked > _LOOK_EVERY:
            self._looked = elapsed()
            found |= {place: Polled(offset, [], None) for place, offset in await self._skipped(found)}
        return found

    async def _check_deleted(self, fetched: Mapping[Place, list[Any]]) -> None:
        """Raise `KafkaUnavailableError` if the broker has deleted records that we had yet to read.

        Reading would go on behind them without a word. A gap alone proves nothing: it may hold control records.
        """
        jumps: dict[Place, int] = {}
        for place, records in fetched.items():
            expected = self._passed.get(place)
            if expected is not None and records[0].offset > expected:
                jumps[place] = expected
        if not jumps:
            return
        try:
            begins = await self._consumer.beginning_offsets(list(jumps))
        except (KafkaError, OSError) as error:
            raise KafkaUnavailableError(str(error) or type(error).__name__) from error
        for place, expected in jumps.items():
            if begins[place] > expected:
                where, until = f"{self._consumer.cluster.physical(place[0])}[{place[1]}]", begins[place]
                raise KafkaUnavailableError(f"{where}: records from offset {expected} to {until} were deleted unread")

    async def _skipped(self, read: Collection[Place]) -> list[tuple[Place, int]]:
        """Return the partitions, beside those that were read, that have moved on over records nobody is given."""
        moved: list[tuple[Place, int]] = []
        assigned = self.assignment()
        for place in self._passed.keys() & assigned - set(read):
            try:
                async with asyncio.timeout(_LOOK_EVERY):
                    offset = await self._consumer.position(place)
            except (TimeoutError, IllegalStateError):  # it is being reset, or taken away
                continue
            if offset > self._passed[place]:
                self._passed[place] = offset
                moved.append((place, offset))
        return moved

    def behind(self, offsets: Mapping[Place, int]) -> int:
        """Count the records from these offsets to the ends of their partitions, as far as fetching has shown them."""
        ends = ((self._consumer.highwater(place), offset) for place, offset in offsets.items())
        return sum(max(0, end - offset) for end, offset in ends if end is not None)

    def held_back(self, offsets: Mapping[Place, int]) -> dict[Place, int]:
        """Return the partitions read to their last stable offset, and how many records wait for open transactions."""
        held: dict[Place, int] = {}
        for place, offset in offsets.items():
            stable, end = self._consumer.last_stable_offset(place), self._consumer.highwater(place)
            if stable is not None and end is not None and 0 <= stable <= offset < end:
                held[place] = end - offset
        return held

    async def ranges(self, places: Collection[Place]) -> dict[Place, tuple[int, int]]:
        """Ask the broker for the first and the next offset of each partition. Raises `KafkaUnavailableError`."""
        return await ask_ranges(self._consumer, places)

    async def commit(self, offsets: Mapping[Place, int], metadata: str = "") -> bool:
        """Commit offsets that the database has, with the text that says which database. Return False if no member."""
        if not offsets:
            return True
        try:
            async with asyncio.timeout(10):
                await self._consumer.commit(offsets, metadata)
        except (CommitFailedError, IllegalStateError, KafkaError, TimeoutError):
            return False
        return True


async def ask_ranges(consumer: MappedConsumer, places: Collection[Place]) -> dict[Place, tuple[int, int]]:
    """Ask by any consumer for the first and the next offset of each partition. Raises `KafkaUnavailableError`."""
    try:
        begins = await consumer.beginning_offsets(places)
        ends = await consumer.end_offsets(places)
    except (KafkaError, OSError) as error:
        raise KafkaUnavailableError(str(error) or type(error).__name__) from error
    return {place: (begins[place], ends[place]) for place in places}


class _Listener(ConsumerRebalanceListener):
    def __init__(self, on_revoked: Callable[[], Awaitable[None]], on_assigned: Callable[[], Awaitable[None]]) -> None:
        self._on_revoked = on_revoked
        self._on_assigned = on_assigned

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._on_revoked()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        await self._on_assigned()


class _Partitioner(DefaultPartitioner):
    """Java's default partitioner, faster."""

    def __call__(self, key: Any, all_partitions: Any, available: Any) -> Any:
        return all_partitions[partition_of(key, len(all_partitions))]


def to_record(topic: str, record: Any) -> Record:
    """Take over a record as aiokafka gives it, except for its topic, which is physical there."""
    value: bytes | None = record.value
    return Record(
        topic, record.partition, record.offset, record.timestamp, record.key, value or b"", record.headers,
        value is None,
    )  # fmt: skip
