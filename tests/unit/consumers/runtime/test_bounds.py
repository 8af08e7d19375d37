"""What is kept in memory is bounded by bytes as well as by number."""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.waiting import until
from tradesaga.consumers.participant import Participant
from tradesaga.consumers.runtime.event_factory import CallKind, Trigger
from tradesaga.consumers.runtime.remote_calls import COMPLETIONS_LIMIT, Call, Calls
from tradesaga.consumers.saga_log.tracked_saga import Parked, SagaCache, Tracked, parked_records
from tradesaga.infra.kafka.codec import Outgoing, Record
from tradesaga.infra.kafka.inspector import Inspector
from tradesaga.infra.outbox.batch import BATCHES, Chunk, Inbox
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.outbox_rows import OutboxRow
from tradesaga.infra.outbox.ports import ConsumerPort
from tradesaga.infra.outbox.publish import UNACKED_BYTES, Publisher
from tradesaga.sagas.definition import AnySaga, saga, seconds
from tradesaga.sagas.step import step
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.message import Event

LANE = Lane(1, "t", 0, 1, 0, 0, 0)


class Wanted(Event):
    """The start."""


class Fetched(Event):
    """The step's answer."""

    bulk: str = ""


class Missed(Event):
    """The step's refusal."""


fetch = step("fetch", on=Wanted, emits=Fetched, rejects=Missed, timeout=seconds(30))
errand: AnySaga = saga("errand", version=1, deadline=seconds(60)).then(fetch)


def record(size: int, offset: int = 0) -> Record:
    """Give a record of this size."""
    return Record("t", 0, offset, 0, b"k", b"v" * (size - 1), [("h", b"1")])


def chunk(count: int, size: int) -> Chunk:
    """Give a chunk of equal records."""
    return Chunk(LANE, count, [record(size, offset) for offset in range(count)])


def test_few_large_records_fill_the_inbox() -> None:
    """Fetching waits by bytes long before it would by number, and goes on once a batch has been taken."""
    inbox = Inbox(1000, limit=10_000, batch_bytes=4_000)
    for _ in range(11):
        assert not inbox.full
        inbox.put(chunk(1, 1000))
    assert inbox.full
    assert [len(inbox.take()), inbox.records, inbox.bytes, inbox.full] == [4, 7, 7000, False]


def test_many_small_records_fill_the_inbox() -> None:
    """Fetching waits by number, and a batch takes whole chunks until it has enough."""
    inbox = Inbox(10)
    for _ in range(BATCHES + 1):
        inbox.put(chunk(9, 10))
    assert inbox.full
    assert [sum(len(each.records) for each in inbox.take()), inbox.records] == [18, 27]


def test_a_chunk_larger_than_a_batch_is_taken_in_pieces() -> None:
    """Whatever a poll brings of one partition, a batch holds no more than its bytes."""
    inbox = Inbox(1000, batch_bytes=4_000)
    inbox.put(chunk(10, 1000))
    taken = [piece for _ in range(3) for piece in inbox.take()]
    assert [(len(piece.records), piece.following) for piece in taken] == [(4, 4), (4, 8), (2, 10)]
    assert [inbox.records, inbox.bytes, bool(inbox)] == [0, 0, False]


def test_a_chunk_without_records_waits_for_its_turn() -> None:
    """It moves its lane's offset, so it is work too; what is cleared is gone."""
    inbox = Inbox(10)
    inbox.put(Chunk(LANE, 5, []))
    assert inbox
    inbox.clear()
    assert not inbox


class Sluggish:
    """A producer that takes all and says nothing until it is told to; the consumer's side is never asked for."""

    def __init__(self) -> None:
        self.acks: list[asyncio.Future[Any]] = []

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing to leave."""

    async def send_all(self, records: Sequence[Outgoing]) -> "Sequence[asyncio.Future[Any]]":
        """Take records."""
        taken = [asyncio.get_running_loop().create_future() for _ in records]
        self.acks += taken
        return taken

    def producer(self, client_id: str) -> "Sluggish":
        """Give itself."""
        return self

    def consumer(self, group: str, topics: Collection[str], client_id: str, session_ms: int) -> ConsumerPort:
        """Give none."""
        raise LookupError(group)

    def inspector(self) -> AbstractAsyncContextManager[Inspector]:
        """Raise: nobody asks this broker about its topics."""
        raise LookupError("inspector")


async def test_large_rows_that_are_not_acknowledged_hold_writing_up() -> None:
    """A few rows of half a megabyte are enough; once the broker has them there is room again."""
    broker = Sluggish()
    outgoing = Outgoing("t", "k", uuid4(), "a.b.v1", [("h", b"1")], b"v" * 512 * 1024)
    async with Publisher(broker, "test", [LANE]) as publisher:
        await publisher.publish(
            [OutboxRow(1, number, outgoing) for number in range(UNACKED_BYTES // outgoing.size + 1)]
        )
        waiting = asyncio.create_task(publisher.room())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        for ack in broker.acks:
            ack.set_result(None)
        await asyncio.wait_for(waiting, 5)


def parked(size: int) -> Tracked:
    """Give a saga of which a record of this size waits."""
    return Tracked(uuid4(), 0, None, parked_records([Parked(record(size), "because")]))


def test_the_saga_log_forgets_the_longest_unheard_of() -> None:
    """By bytes and by number; what is kept again counts once."""
    cache = SagaCache(sagas=3, size=1000)
    old, large = parked(100), parked(950)
    for _ in range(3):
        cache.keep(old)
    assert (len(cache), cache.bytes) == (1, 100)
    cache.keep(large)
    assert (cache.get(old.saga_id), cache.get(large.saga_id), cache.bytes) == (None, large, 950)
    for _ in range(5):
        cache.keep(parked(10))
    assert (len(cache), cache.bytes) == (3, 30)
    cache.keep(parked(1001))
    assert (len(cache), cache.bytes) == (3, 30)


class Far:
    """A far side that answers with as much as it is told, once it is let."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.participant = Participant("far", errand)

        @self.participant.calls(fetch)
        async def call(event: Wanted, ctx: object) -> Fetched | Missed:
            await self.open.wait()
            return Fetched(bulk="x" * 1000)

        _ = call

    def order(self, size: int) -> Call:
        """Give a call that holds `size` bytes."""
        saga_id: UUID = uuid4()
        envelope = Envelope("t", "i", "/", str(saga_id), "now", context=b"c" * (size - 2))
        binding = self.participant.bindings["fetch"]
        return Call(CallKind.CALL, binding, saga_id, 1, None, Trigger(envelope, b"{}", Wanted), 1)  # pyright: ignore[reportArgumentType]


async def ended(calls: Calls, count: int) -> None:
    """Wait until so many calls have ended."""

    async def all_there() -> bool:
        return len(calls.completions) == count

    await until(all_there)


async def test_large_calls_leave_no_room_for_others() -> None:
    """Two calls that hold much are as many as may be; the answers count until they are judged."""
    far, calls = Far(), Calls(limit=100, size=1500)
    await calls.open(lambda: None)
    for _ in range(2):
        assert calls.admits(0, 0)
        calls.start(far.order(800))
    assert not calls.admits(0, 0)
    assert calls.room == 0
    far.open.set()
    await ended(calls, 2)
    calls.processed(calls.completions[0])
    assert calls.room == 0
    calls.processed(calls.completions[0])
    assert calls.room == 100
    await calls.close()


@pytest.mark.parametrize(("size", "judged"), [(10, COMPLETIONS_LIMIT), (64 * 1024, 127)])
async def test_a_batch_judges_so_many_calls(size: int, judged: int) -> None:
    """Twelve hundred calls end at once: a batch takes some of them, fewer where they are large."""
    far, calls = Far(), Calls(size=10**9)
    far.open.set()
    await calls.open(lambda: None)
    for _ in range(1200):
        calls.start(far.order(size))
    await ended(calls, 1200)
    assert len(calls.ended()) == judged
    await calls.close()
