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
from tradesaga.infra.kafka.connections import READ_COMMITTED, MappedConsumer, Place
from tradesaga.infra.kafka.errors import KafkaUnavailableError, translated_errors
from tradesaga.infra.kafka.lenient_records import read_leniently
from tradesaga.schemas.envelope import Header

Wants = Callable[[str, Sequence[Header]], bool]
"""Decides from a record's topic and headers whether the reader needs it."""
_LOOK_EVERY: Final = 0.5
"""Seconds between two checks of the positions of partitions that return no records."""


class Polled(NamedTuple):
    """What a poll has brought of one partition: the offset to read on from, the wanted records before it.

    `last` is what the last record read is recognised by; None where only control records were passed.
    """

    following: int
    records: list[Record]
    last: RecordChecksum | None


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
            with translated_errors():
                await self._consumer.start()
        except (asyncio.CancelledError, KafkaUnavailableError):
            await self.stop()
            raise

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
            with translated_errors():
                fetched = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=limit)
        except UnicodeDecodeError as error:
            read_leniently()
            raise KafkaUnavailableError("a header's name is not UTF-8; reading again, with escapes") from error
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
        with translated_errors():
            begins = await self._consumer.beginning_offsets(list(jumps))
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
        return await self._consumer.ranges(places)

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


class _Listener(ConsumerRebalanceListener):
    def __init__(self, on_revoked: Callable[[], Awaitable[None]], on_assigned: Callable[[], Awaitable[None]]) -> None:
        self._on_revoked = on_revoked
        self._on_assigned = on_assigned

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._on_revoked()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        await self._on_assigned()
