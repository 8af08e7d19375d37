# ruff: noqa: SLF001 - the administration client has no public way to send a request of ours
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false, reportIncompatibleMethodOverride=false, reportAssignmentType=false
"""The inspector: topic ids, committed offsets with their metadata, and single records, without joining a group.

aiokafka's metadata request ends at version 5, which has no topic ids; version 12 is declared here.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from io import BytesIO
from typing import Any, Final, NamedTuple, Protocol, cast
from uuid import UUID

from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    IncompatibleBrokerVersion,
    NodeNotReadyError,
    NotCoordinatorForGroupError,
    for_code,
)
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from tradesaga.infra.clock import SystemClock
from tradesaga.infra.kafka.codec import Record, to_record
from tradesaga.infra.kafka.connections import (
    Admin,
    HeaderNameError,
    KafkaUnavailableError,
    MappedConsumer,
    MappedProducer,
    Partition,
    open_admin,
    translated_errors,
)
from tradesaga.infra.kafka.names import Cluster

NO_ID: Final = UUID(int=0)
"""The topic id reported for brokers older than 3.1, which have none."""
_REQUEST_MS: Final = 10_000
_READ_SECONDS: Final = 10.0
"""Seconds that the broker has to return records at given offsets."""
_COORDINATOR_SECONDS: Final = 20.0
"""Seconds to wait for a group's coordinator; a new cluster creates its offsets topic first."""
_SEEKING: Final = (
    GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NodeNotReadyError, NotCoordinatorForGroupError,
)  # fmt: skip
_PAGE: Final = 500


class TopicState(NamedTuple):
    """A topic as the broker has it; one that is deleted and created again has another id."""

    id: UUID
    partitions: int


class Committed(NamedTuple):
    """A group's committed offset of one partition, and the text stored with it."""

    offset: int
    metadata: str


class Inspector(Protocol):
    """Reads Kafka's state without joining a group. Every method but `now` raises `KafkaUnavailableError`."""

    def now(self) -> int:
        """Return the time, nanoseconds since 1970."""
        ...

    async def topics(self, names: Collection[str]) -> dict[str, TopicState]:
        """Return the topics that exist."""
        ...

    async def committed(self, groups: Collection[str]) -> dict[str, dict[Partition, Committed]]:
        """Return the committed offsets by group."""
        ...

    async def ranges(self, places: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return the first and the next offset of each partition."""
        ...

    async def read(
        self, ranges: Mapping[Partition, tuple[int, int]], *, first: bool = False
    ) -> dict[Partition, list[Record]]:
        """Return the records of each range, which ends before its second offset; with `first` only its first one."""
        ...

    def scan(self, ranges: Mapping[Partition, tuple[int, int]]) -> AsyncGenerator[list[Record]]:
        """Yield the records of each range in pages of a few hundred, those of a partition in order."""
        ...

    async def append(self, topic: str, key: bytes, value: bytes) -> None:
        """Append one record to partition 0 and wait until the broker has it."""
        ...


@asynccontextmanager
async def open_inspector(brokers: str) -> AsyncGenerator["KafkaInspector"]:
    """Connect an inspector for as long as the context is open. Raises `KafkaUnavailableError`."""
    inspector = KafkaInspector(brokers)
    try:
        with translated_errors(brokers):
            yield inspector
    finally:
        await inspector.close()


class KafkaInspector:
    """An inspector of a real cluster; it connects on first use."""

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers
        self._cluster = Cluster.parse(brokers)
        self._clients = AsyncExitStack()
        self._admin: Admin | None = None
        self._consumer: MappedConsumer | None = None

    def now(self) -> int:
        """Return the time, nanoseconds since 1970."""
        return SystemClock().now()

    async def close(self) -> None:
        """Disconnect."""
        await self._clients.aclose()

    async def topics(self, names: Collection[str]) -> dict[str, TopicState]:
        """Return the topics that exist."""
        admin = await self._connect_admin()
        try:
            asked = [self._cluster.physical(name) for name in names]
            answer: Any = await admin._send_request(_TopicsRequest(asked))
        except (IncompatibleBrokerVersion, NotImplementedError):
            return await self._topics_without_ids(names)
        found: dict[str, TopicState] = {}
        for code, name, topic_id, _, partitions, *_ in answer.topics:
            if not code:
                found[self._cluster.logical(name)] = TopicState(topic_id, len(partitions))
        return found

    async def _topics_without_ids(self, names: Collection[str]) -> dict[str, TopicState]:
        admin, asked = await self._connect_admin(), [self._cluster.physical(name) for name in names]
        described = cast("list[Mapping[str, Any]]", await admin.describe_topics(asked))
        return {
            self._cluster.logical(each["topic"]): TopicState(NO_ID, len(each["partitions"]))
            for each in described
            if not each["error_code"]
        }

    async def committed(self, groups: Collection[str]) -> dict[str, dict[Partition, Committed]]:
        """Return the committed offsets by group."""
        await self._connect_admin()
        answers = await asyncio.gather(*(self._committed(group) for group in groups))
        return dict(zip(groups, answers, strict=True))

    async def groups_of(self, topic: str, prefix: str) -> dict[str, dict[Partition, int]]:
        """Return the committed offsets of this topic, by group, of the groups whose names begin with `prefix`."""
        admin = await self._connect_admin()
        names = {str(each[0]) for each in await admin.list_consumer_groups()}
        groups = {self._cluster.logical(name) for name in names if self._cluster.owns(name)}
        committed = await self.committed(sorted(group for group in groups if group.startswith(prefix)))
        own = {
            group: {place: each.offset for place, each in places.items() if place[0] == topic}
            for group, places in committed.items()
        }
        return {group: places for group, places in own.items() if places}

    async def with_members(self, groups: Collection[str]) -> set[str]:
        """Return those of the groups that have members now."""
        admin = await self._connect_admin()
        found: set[str] = set()
        for name in (self._cluster.physical(group) for group in groups):
            coordinator = await admin.find_coordinator(name)
            answer: Any = await admin._send_request_to_node(coordinator, DescribeGroupsRequest([name]))
            for code, described, _, _, _, members, *_ in answer.groups:
                if code:
                    raise for_code(code)(described)
                if members:
                    found.add(self._cluster.logical(described))
        return found

    async def _committed(self, group: str) -> dict[Partition, Committed]:
        """Return a group's offsets; waits while its coordinator is unknown or still loading."""
        admin, name = await self._connect_admin(), self._cluster.physical(group)
        ends = asyncio.get_running_loop().time() + _COORDINATOR_SECONDS
        while True:
            try:
                coordinator = await admin.find_coordinator(name)
                answer: Any = await admin._send_request_to_node(coordinator, OffsetFetchRequest(name, None))
                if answer.error_code:
                    raise for_code(answer.error_code)(name)
                return _offsets(self._cluster, answer.topics)
            except _SEEKING:
                if asyncio.get_running_loop().time() > ends:
                    raise
                await asyncio.sleep(0.1)

    async def ranges(self, places: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return the first and the next offset of each partition."""
        return await (await self._reader()).ranges(places) if places else {}

    async def read(
        self, ranges: Mapping[Partition, tuple[int, int]], *, first: bool = False
    ) -> dict[Partition, list[Record]]:
        """Return the records of each range, which ends before its second offset; with `first` only its first one."""
        found: dict[Partition, list[Record]] = {}
        async with aclosing(self._pages(ranges, first=first)) as pages:
            async for page in pages:
                for place, records in page.items():
                    found.setdefault(place, []).extend(records)
        return {place: records[:1] if first else records for place, records in found.items()}

    async def scan(self, ranges: Mapping[Partition, tuple[int, int]]) -> AsyncGenerator[list[Record]]:
        """Yield the records of each range in pages of a few hundred, those of a partition in order."""
        async with aclosing(self._pages(ranges)) as pages:
            async for page in pages:
                yield [record for records in page.values() for record in records]

    async def _pages(
        self, ranges: Mapping[Partition, tuple[int, int]], *, first: bool = False
    ) -> AsyncGenerator[dict[Partition, list[Record]]]:
        left = {place: end for place, (start, end) in ranges.items() if start < end}
        if not left:
            return
        reader = await self._seek({place: ranges[place][0] for place in left})
        async for fetched in self._fetch(reader):
            yield {
                place: [each for each in records if each.offset < ranges[place][1]]
                for place, records in fetched.items()
            }
            for place, end in list(left.items()):
                # Only control records are left after the last record.
                if (first and place in fetched) or await reader.position(place) >= end:
                    reader.pause(place)
                    del left[place]
            if not left:
                break

    async def _fetch(self, reader: MappedConsumer) -> AsyncGenerator[dict[Partition, list[Record]]]:
        """Fetch until the caller stops. Raises `KafkaUnavailableError` when that takes too long."""
        ends = asyncio.get_running_loop().time() + _READ_SECONDS
        while asyncio.get_running_loop().time() < ends:
            try:
                fetched = await reader.getmany(timeout_ms=500, max_records=_PAGE)
            except HeaderNameError:
                continue
            yield {place: [to_record(place[0], each) for each in records] for place, records in fetched.items()}
        raise KafkaUnavailableError(f"{self._brokers}: records were not returned within {_READ_SECONDS:g} s")

    async def append(self, topic: str, key: bytes, value: bytes) -> None:
        """Append one record to partition 0 and wait until the broker has it."""
        async with MappedProducer(
            self._brokers, client_id="tradesaga", enable_idempotence=True, request_timeout_ms=_REQUEST_MS
        ) as producer:
            await (await producer.send(topic, value, key=key, partition=0))

    async def _seek(self, offsets: Mapping[Partition, int]) -> MappedConsumer:
        reader = await self._reader()
        reader.assign(offsets)
        for place, offset in offsets.items():
            reader.seek(place, offset)
        return reader

    async def _connect_admin(self) -> Admin:
        if self._admin is None:
            self._admin = await self._clients.enter_async_context(open_admin(self._brokers, _REQUEST_MS))
        return self._admin

    async def _reader(self) -> MappedConsumer:
        if self._consumer is None:
            consumer = MappedConsumer(
                self._brokers,
                client_id="tradesaga",
                isolation_level="read_uncommitted",
                auto_offset_reset="earliest",
                request_timeout_ms=_REQUEST_MS,
                max_partition_fetch_bytes=64 * 1024,
                fetch_max_wait_ms=50,
            )
            self._consumer = await self._clients.enter_async_context(consumer)
        return self._consumer


def _offsets(cluster: Cluster, topics: Any) -> dict[Partition, Committed]:
    found: dict[Partition, Committed] = {}
    for topic, partitions in topics:
        for partition, offset, metadata, code in partitions:
            if code:
                raise for_code(code)(f"{topic}[{partition}]")
            if offset >= 0 and cluster.owns(topic):
                found[cluster.logical(topic), partition] = Committed(offset, metadata or "")
    return found


class _Uuid(AbstractType[UUID]):
    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


class _TopicsResponse(Response):
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TopicsRequestV12(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = _TopicsResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _TopicsRequest(Request[_TopicsRequestV12]):
    API_KEY = 3

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def build(self, request_struct_class: type[_TopicsRequestV12]) -> _TopicsRequestV12:
        return request_struct_class([(NO_ID, name, {}) for name in self._names], False, False, {})
