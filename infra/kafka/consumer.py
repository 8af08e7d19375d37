# ruff: noqa: ARG002 - the listener's signature is aiokafka's
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportIncompatibleMethodOverride=false
"""A group member that commits no offsets by itself and reads committed records only.

aiokafka is untyped in part, and its defaults lose records (latest, auto-commit); docs/decisions/0002 lists what is set,
and why.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from tradesaga.infra.clock import elapsed
from tradesaga.infra.kafka.codec import Record, RecordChecksum, checksum, to_record
from tradesaga.infra.kafka.connections import KafkaUnavailableError, MappedConsumer, Partition, translated_errors
from tradesaga.schemas.envelope import Header

Wants = Callable[[str, Sequence[Header]], bool]
"""Decides from a record's topic and headers whether the reader needs it."""
_LOOK_EVERY: Final = 0.5
"""Seconds between two checks of the positions of partitions that return no records."""


class Polled(NamedTuple):
    """The result of a poll for one partition: the next offset, and the wanted records before it.

    `last` is the checksum of the last record read; None where only control records were passed.
    """

    following: int
    records: list[Record]
    last: RecordChecksum | None


class Consumer:
    """A group member that commits no offsets by itself and starts at the first record."""

    def __init__(self, brokers: str, group: str, topics: Collection[str], client_id: str, session_ms: int) -> None:
        self._topics = list(topics)
        self._passed: dict[Partition, int] = {}
        self._looked = 0.0
        # Range assigns partition n of events and of commands to one member, so that a saga has one owner in a group.
        self._consumer = MappedConsumer(
            brokers,
            group=group,
            client_id=client_id,
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

        Records may be delivered before `on_assigned` has run; the caller must drop them.
        """
        self._consumer.subscribe(self._topics, listener=_Listener(on_revoked, on_assigned))
        with translated_errors():
            await self._consumer.start()

    async def stop(self) -> None:
        """Leave the group."""
        await self._consumer.stop()

    def assignment(self) -> set[Partition]:
        """Return the partitions assigned to this member."""
        return self._consumer.assignment()

    def seek(self, place: Partition, offset: int) -> None:
        """Continue at `offset`; prefetched records are dropped. Raises `KafkaUnavailableError` if not assigned."""
        try:
            self._consumer.seek(place, offset)
        except IllegalStateError as error:
            raise KafkaUnavailableError(f"{place} is assigned to another member now") from error
        self._passed[place] = offset

    async def poll(self, wants: Wants, timeout_ms: int, limit: int) -> dict[Partition, Polled]:
        """Wait for records; return by partition the wanted records and the next offset.

        A partition that has passed only control or aborted records is returned without records. Never cancel this: a
        cancelled `getmany` disables `max_poll_interval` for good. Raises `KafkaUnavailableError`.
        """
        with translated_errors():
            fetched = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=limit)
        await self._check_deleted(fetched)
        found: dict[Partition, Polled] = {}
        for place, records in fetched.items():
            topic, last = place[0], records[-1]
            self._passed[place] = following = last.offset + 1
            wanted = [to_record(topic, each) for each in records if wants(topic, each.headers)]
            found[place] = Polled(following, wanted, checksum(last.offset, last.timestamp, last.key, last.value))
        if not found or elapsed() - self._looked > _LOOK_EVERY:
            self._looked = elapsed()
            found |= {place: Polled(offset, [], None) for place, offset in await self._skipped(found)}
        return found

    async def _check_deleted(self, fetched: Mapping[Partition, list[Any]]) -> None:
        """Raise `KafkaUnavailableError` if the broker has deleted unread records.

        Otherwise reading would silently continue after them. A gap alone proves nothing: it may hold control records.
        """
        jumps: dict[Partition, int] = {}
        for place, records in fetched.items():
            expected = self._passed.get(place)
            if expected is not None and records[0].offset > expected:
                jumps[place] = expected
        if not jumps:
            return
        with translated_errors():
            begins = await self._consumer.beginning_offsets(list(jumps))
        for place, expected in jumps.items():
            if begins[place] > expected:
                where, until = f"{self._consumer.cluster.physical(place[0])}[{place[1]}]", begins[place]
                raise KafkaUnavailableError(f"{where}: records from offset {expected} to {until} were deleted unread")

    async def _skipped(self, read: Collection[Partition]) -> list[tuple[Partition, int]]:
        """Return other assigned partitions whose position has moved past records that are never delivered."""
        moved: list[tuple[Partition, int]] = []
        assigned = self.assignment()
        for place in self._passed.keys() & assigned - set(read):
            try:
                async with asyncio.timeout(_LOOK_EVERY):
                    offset = await self._consumer.position(place)
            except (TimeoutError, IllegalStateError):  # being reset or revoked
                continue
            if offset > self._passed[place]:
                self._passed[place] = offset
                moved.append((place, offset))
        return moved

    def behind(self, offsets: Mapping[Partition, int]) -> int:
        """Return the number of records from these offsets to the ends of their partitions, as of the last fetch."""
        ends = ((self._consumer.highwater(place), offset) for place, offset in offsets.items())
        return sum(max(0, end - offset) for end, offset in ends if end is not None)

    def held_back(self, offsets: Mapping[Partition, int]) -> dict[Partition, int]:
        """Return the partitions read to their last stable offset, with the records that wait for open transactions."""
        held: dict[Partition, int] = {}
        for place, offset in offsets.items():
            stable, end = self._consumer.last_stable_offset(place), self._consumer.highwater(place)
            if stable is not None and end is not None and 0 <= stable <= offset < end:
                held[place] = end - offset
        return held

    async def ranges(self, places: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return the first and the next offset of each partition. Raises `KafkaUnavailableError`."""
        return await self._consumer.ranges(places)

    async def commit(self, offsets: Mapping[Partition, int], metadata: str = "") -> bool:
        """Commit offsets with metadata that identifies the database; return False if the group rejects this member."""
        if not offsets:
            return True
        try:
            async with asyncio.timeout(10):
                await self._consumer.commit(offsets, metadata)
        except (CommitFailedError, IllegalStateError, KafkaError, TimeoutError):
            return False
        return True


class _Listener(ConsumerRebalanceListener):
    def __init__(self, on_revoked: Callable[[], Awaitable[None]], on_assigned: Callable[[], Awaitable[None]]) -> None:
        self._on_revoked = on_revoked
        self._on_assigned = on_assigned

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._on_revoked()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        await self._on_assigned()
