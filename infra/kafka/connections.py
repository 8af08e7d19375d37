# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false
# ruff: noqa: SLF001 - aiokafka's record batches are read where it has no public way in
"""aiokafka's clients with logical topic and group names, and with errors of the broker as one exception.

The only module that makes clients of aiokafka (tests/architecture/test_kafka_clients.py). Consumers and producers take
and return logical names; only records and administration clients have physical ones. Starting or stopping a client
completes even when the caller is cancelled meanwhile; a client that cannot start is stopped.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Self, cast

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.consumer import fetcher
from aiokafka.errors import InvalidTimestampError, KafkaError, MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from tradesaga.infra.kafka.names import Cluster

REFUSALS: Final = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidTimestampError)
"""Errors with which the broker rejects a record for good, whoever sends it."""


class KafkaUnavailableError(Exception):
    """The broker did not answer, or did not accept a record; what was sent may or may not have arrived."""


class HeaderNameError(KafkaUnavailableError):
    """A header's name is not UTF-8: the fetched records must be read again, now with lone surrogates in such names."""


@contextmanager
def translated_errors(where: str = "") -> Generator[None]:
    """Raise `KafkaUnavailableError` for errors of aiokafka and of the network; `where` begins the message."""
    try:
        yield
    except (KafkaError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise KafkaUnavailableError(f"{where}: {reason}" if where else reason) from error


_NEWEST = 2
"""The first record format with headers."""


class _Records(_MemoryRecordsPy):  # pyright: ignore[reportGeneralTypeIssues] - final for aiokafka's own compiler only
    def next_batch(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the next batch, as a `_Batch` if it is of the newest format."""
        piece = self._next_slice
        batch = super().next_batch()
        if piece is None or piece[self.MAGIC_OFFSET] < _NEWEST:
            return batch
        return _Batch(_DefaultRecordBatchPy(piece))


class _Batch:
    """aiokafka's Python batch; its checksum is validated before its bytes are decompressed."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self._valid = batch.validate_crc()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def validate_crc(self) -> bool:
        """Return whether the checksum is valid."""
        return self._valid

    def __next__(self) -> Any:
        """Return the record of a control batch."""
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        self._batch._maybe_uncompress()
        self._batch._buffer = _Bytes(self._batch._buffer)
        return iter(self._batch)


class _Bytes(bytearray):
    """Bytes whose slices can always be decoded."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _Bytes(found) if isinstance(place, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> str:
        return super().decode(encoding, errors)


Partition = tuple[str, int]
"""A partition: its logical topic and its number."""
READ_COMMITTED: Final = "read_committed"
"""The isolation level of consumers: records of aborted or open transactions are not returned."""
_PATIENCE = 5.0
"""Seconds that a client has to start or stop when the caller has been cancelled."""


_READER_BACKOFF_MS: Final = 20
"""A consumer without a group learns of one topic at a time, and waits this long after each; aiokafka waits 100."""


class _Client:
    """A client that is started and stopped whole, by `start` and `stop` or as a context manager."""

    def __init__(self, client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
        self._client = client

    async def start(self) -> None:
        """Connect, as a consumer join the group if there is one; a client that fails in this is stopped."""
        try:
            await _complete(self._client.start())
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Disconnect: a consumer leaves its group, a producer flushes."""
        await _complete(self._client.stop())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class MappedConsumer(_Client):
    """An `AIOKafkaConsumer` that commits only when told to; further `settings` and errors are aiokafka's."""

    def __init__(
        self, brokers: str, *, group: str | None = None, isolation_level: str = READ_COMMITTED, **settings: Any
    ) -> None:
        self.cluster = Cluster.parse(brokers)
        self._partitions: dict[TopicPartition, Partition] = {}
        if group is None:
            settings.setdefault("retry_backoff_ms", _READER_BACKOFF_MS)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self.cluster.bootstrap,
            group_id=None if group is None else self.cluster.physical(group),
            enable_auto_commit=False,
            isolation_level=isolation_level,
            **settings,
        )
        super().__init__(self._consumer)

    def subscribe(self, topics: Iterable[str], listener: ConsumerRebalanceListener) -> None:
        """Subscribe to these topics; the listener is passed physical names."""
        self._consumer.subscribe([self.cluster.physical(topic) for topic in topics], listener=listener)

    def assignment(self) -> set[Partition]:
        """Return the assigned partitions."""
        return {self._logical(partition) for partition in self._consumer.assignment()}

    def assign(self, places: Iterable[Partition]) -> None:
        """Read these partitions, without a group."""
        self._consumer.assign([self._physical(place) for place in places])

    def seek(self, place: Partition, offset: int) -> None:
        """Continue at `offset`."""
        self._consumer.seek(self._physical(place), offset)

    async def seek_to_beginning(self, place: Partition) -> None:
        """Continue at the first record."""
        await self._consumer.seek_to_beginning(self._physical(place))

    def pause(self, *places: Partition) -> None:
        """Stop fetching from these partitions."""
        self._consumer.pause(*(self._physical(place) for place in places))

    async def position(self, place: Partition) -> int:
        """Return the offset of the next record to read."""
        return await self._consumer.position(self._physical(place))

    async def getmany(self, *places: Partition, timeout_ms: int, max_records: int) -> dict[Partition, list[Any]]:
        """Return fetched records by partition, of all assigned partitions or of those given.

        Raises `HeaderNameError`; from then on all consumers of this process read such names.
        """
        asked = [self._physical(place) for place in places]
        try:
            fetched = await self._consumer.getmany(*asked, timeout_ms=timeout_ms, max_records=max_records)
        except UnicodeDecodeError as error:
            fetcher.MemoryRecords = _Records
            raise HeaderNameError("a header's name is not UTF-8; read again, such names are escaped now") from error
        return {self._logical(each): records for each, records in cast("Mapping[Any, list[Any]]", fetched).items()}

    async def beginning_offsets(self, places: Collection[Partition]) -> dict[Partition, int]:
        """Return the first offset of each partition."""
        return self._by_partition(await self._consumer.beginning_offsets([self._physical(each) for each in places]))

    async def end_offsets(self, places: Collection[Partition]) -> dict[Partition, int]:
        """Return the next offset of each partition, by the consumer's isolation level."""
        return self._by_partition(await self._consumer.end_offsets([self._physical(each) for each in places]))

    async def ranges(self, places: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return the first and the next offset of each partition. Raises `KafkaUnavailableError`."""
        with translated_errors():
            begins, ends = await self.beginning_offsets(places), await self.end_offsets(places)
        return {place: (begins[place], ends[place]) for place in places}

    async def offsets_for_times(self, times: Mapping[Partition, int]) -> dict[Partition, int]:
        """Return the first offset of each partition at or after a time in milliseconds; none is left out."""
        found = await self._consumer.offsets_for_times({self._physical(each): time for each, time in times.items()})
        return self._by_partition({each: at.offset for each, at in found.items() if at is not None})

    def highwater(self, place: Partition) -> int | None:
        """Return the end of a partition as of the last fetch."""
        return self._consumer.highwater(self._physical(place))

    def last_stable_offset(self, place: Partition) -> int | None:
        """Return the last stable offset of a partition as of the last fetch."""
        return self._consumer.last_stable_offset(self._physical(place))

    async def commit(self, offsets: Mapping[Partition, int], metadata: str) -> None:
        """Commit offsets with metadata."""
        await self._consumer.commit(
            {self._physical(place): OffsetAndMetadata(offset, metadata) for place, offset in offsets.items()}
        )

    def _by_partition(self, offsets: Mapping[TopicPartition, int]) -> dict[Partition, int]:
        return {self._logical(each): offset for each, offset in offsets.items()}

    def _physical(self, place: Partition) -> TopicPartition:
        return TopicPartition(self.cluster.physical(place[0]), place[1])

    def _logical(self, partition: TopicPartition) -> Partition:
        place = self._partitions.get(partition)
        if place is None:
            place = self._partitions[partition] = self.cluster.logical(partition.topic), partition.partition
        return place


class MappedProducer(_Client):
    """An `AIOKafkaProducer`; `settings` and errors are aiokafka's."""

    def __init__(self, brokers: str, **settings: Any) -> None:
        self.cluster = Cluster.parse(brokers)
        self._producer = AIOKafkaProducer(bootstrap_servers=self.cluster.bootstrap, **settings)
        super().__init__(self._producer)

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None,
        headers: Sequence[Any] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> "asyncio.Future[Any]":
        """Queue one record; the future resolves when the broker has it."""
        name = self.cluster.physical(topic)
        return await self._producer.send(name, value, key, partition, timestamp_ms, headers)

    async def begin_transaction(self) -> None:
        """Begin a transaction of this producer, which must have a `transactional_id`."""
        await self._producer.begin_transaction()

    async def commit_transaction(self) -> None:
        """Commit the transaction."""
        await self._producer.commit_transaction()

    async def abort_transaction(self) -> None:
        """Abort the transaction."""
        await self._producer.abort_transaction()

    async def count_partitions(self, topic: str) -> int:
        """Return the number of partitions of a topic."""
        return len(await self._producer.partitions_for(self.cluster.physical(topic)))

    def create_batch(self) -> Any:
        """Make an empty batch."""
        return self._producer.create_batch()

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        """Queue a batch for one partition; the future resolves when the broker has it."""
        return await self._producer.send_batch(batch, self.cluster.physical(topic), partition=partition)


class Admin(AIOKafkaAdminClient):
    """An `AIOKafkaAdminClient` whose start and stop always complete."""

    async def start(self) -> None:
        """Connect."""
        await _complete(super().start())

    async def close(self) -> None:
        """Disconnect."""
        await _complete(super().close())


@asynccontextmanager
async def open_admin(brokers: str, request_timeout_ms: int, *, where: str = "") -> AsyncGenerator[Admin]:
    """Connect an administration client while the context is open; its topic and group names are physical.

    Errors of the broker are raised as `KafkaUnavailableError`, whose message begins with `where`.
    """
    bootstrap = Cluster.parse(brokers).bootstrap
    client = Admin(bootstrap_servers=bootstrap, client_id="tradesaga", request_timeout_ms=request_timeout_ms)
    try:
        with translated_errors(where):
            await client.start()
            yield client
    finally:
        await client.close()


@asynccontextmanager
async def open_consumer(brokers: str, *, where: str = "", **settings: Any) -> AsyncGenerator[MappedConsumer]:
    """Connect a consumer of committed records, without a group, while the context is open.

    Errors of the broker are raised as `KafkaUnavailableError`, whose message begins with `where`.
    """
    with translated_errors(where or brokers):
        async with MappedConsumer(brokers, client_id="tradesaga", **settings) as consumer:
            yield consumer


async def _complete(work: Coroutine[Any, Any, None]) -> None:
    """Complete a start or stop even when cancelled: aiokafka, cancelled halfway, leaves connections open."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_PATIENCE)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it
        raise
