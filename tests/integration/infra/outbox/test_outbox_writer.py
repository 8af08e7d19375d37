"""Leased lanes: group commit, publication, take-over after a kill, fencing, and commits without an answer."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from uuid import UUID

import asyncpg
import pytest

from tests.broker import read_topic, temporary_topic
from tests.waiting import until
from tradesaga.infra.clock import new_id
from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.outbox.batch_writer import OutboxTransaction
from tradesaga.infra.outbox.outbox_writer import NotWrittenError, OutboxWriter, WriteUnknownError
from tradesaga.infra.outbox.ownership import unique_owner_name
from tradesaga.infra.postgres.database import Pool, open_pool, session

pytestmark = pytest.mark.stack

Write = Callable[[OutboxTransaction], Awaitable[int]]


@pytest.fixture
def topic(kafka: str) -> Iterator[str]:
    """Give a topic of this test alone."""
    with temporary_topic(kafka, "leased") as name:
        yield name


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """Give a pool on the test's database, with a table to write to."""
    pool = await open_pool(database_url, max_size=4)
    await pool.execute("CREATE TABLE note (number int PRIMARY KEY, transaction xid8 DEFAULT pg_current_xact_id())")
    yield pool
    await pool.close()


def note(topic: str, number: int) -> Write:
    """Make a function that writes one row and publishes one record, both saying `number`."""

    async def run(transaction: OutboxTransaction) -> int:
        await transaction.sql.execute("INSERT INTO note (number) VALUES ($1)", number)
        transaction.publish(record(topic, number))
        return number

    return run


def record(topic: str, number: int) -> Outgoing:
    """Make a record whose value is `number`."""
    key: UUID = new_id()
    return Outgoing(topic, str(key), key, "note", [("ce_id", str(key).encode())], str(number).encode())


def read(kafka: str, topic: str, count: int) -> list[int]:
    """Give the numbers that the topic holds."""
    return [int(seen.value) for seen in read_topic(kafka, topic, count)]


def writer(pool: Pool, kafka: str, *, count: int = 2, lease: float = 10.0) -> OutboxWriter:
    """Make a writer of this test's group."""
    return OutboxWriter(pool, kafka, "test", "http", count, owner=unique_owner_name("test"), lease=lease)


async def tried(writing: OutboxWriter) -> None:
    """Wait until a writer has tried in vain."""

    async def in_vain() -> bool:
        return writing.health.restarts > 0

    await until(in_vain)


async def test_what_is_committed_is_published_in_order(pool: Pool, kafka: str, topic: str) -> None:
    """Each write gives its result after the commit; all records arrive in order; the lane is left free and marked."""
    async with writer(pool, kafka) as writing:
        assert [await writing.write(note(topic, number)) for number in range(20)] == list(range(20))
    assert await asyncio.to_thread(read, kafka, topic, 20) == list(range(20))
    lane = await pool.fetchrow("SELECT last_seq, published_seq, lease_until FROM lane WHERE last_seq > 0")
    assert lane is not None
    assert tuple(lane) == (20, 20, None)


async def test_concurrent_writes_share_a_transaction(pool: Pool, kafka: str, topic: str) -> None:
    """A hundred writes at once need a few transactions, and one that raises takes back its own work alone."""

    async def fail(transaction: OutboxTransaction) -> int:
        await note(topic, 1000)(transaction)
        raise ValueError("no")

    async def break_rule(transaction: OutboxTransaction) -> int:
        return await note(topic, 7)(transaction)

    async with writer(pool, kafka) as writing:
        await writing.write(note(topic, 7))
        runs = [*(note(topic, number) for number in range(100, 200)), fail, break_rule]
        results = await asyncio.gather(*(writing.write(run) for run in runs), return_exceptions=True)
    assert results[:100] == list(range(100, 200))
    assert isinstance(results[100], ValueError)
    assert isinstance(results[101], asyncpg.UniqueViolationError)
    assert await pool.fetchval("SELECT count(DISTINCT transaction) FROM note") <= 10
    assert await asyncio.to_thread(read, kafka, topic, 101) == [7, *range(100, 200)]


_KILLED = """
import asyncio, os, signal, sys
from tradesaga.infra.postgres.database import open_pool
from tradesaga.infra.outbox.publish import Publisher
from tests.integration.infra.outbox.test_outbox_writer import note, writer

async def main(url, kafka, topic):
    async def die(self, rows):
        os.kill(os.getpid(), signal.SIGKILL)
    async with writer(await open_pool(url), kafka, lease=1.5) as writing:
        await writing.write(note(topic, 1))
        await asyncio.sleep(1)
        Publisher.publish = die
        await writing.write(note(topic, 2))
        await asyncio.sleep(30)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_rows_of_a_killed_owner_are_published_by_another(
    pool: Pool, kafka: str, topic: str, database_url: str
) -> None:
    """A writer killed between commit and publication: another of its group publishes the row once the lease lapses."""
    async with writer(pool, kafka, lease=1.5) as other:
        await other.write(note(topic, 0))
        killed = await asyncio.create_subprocess_exec(sys.executable, "-c", _KILLED, database_url, kafka, topic)
        assert await killed.wait() == -signal.SIGKILL
        assert await pool.fetchval("SELECT sum(last_seq - published_seq) FROM lane WHERE partition = 1") >= 1
        assert set(await asyncio.to_thread(read, kafka, topic, 3)) == {0, 1, 2}
        await until(lambda: pool.fetchval("SELECT last_seq = published_seq FROM lane WHERE partition = 1"))


async def test_fenced_writer_goes_on_in_another_lane(pool: Pool, kafka: str, topic: str) -> None:
    """A writer whose lane is taken over writes nothing more there; its next write counts once, elsewhere."""
    async with writer(pool, kafka) as writing:
        await writing.write(note(topic, 1))
        await pool.execute(
            "UPDATE lane SET epoch = epoch + 1, owner = 'thief', lease_until = clock_timestamp() + interval '1 h'"
            " WHERE last_seq > 0"
        )
        assert await writing.write(note(topic, 2)) == 2
        assert writing.health.fenced == 1
    rows = await pool.fetch("SELECT owner, last_seq FROM lane ORDER BY partition")
    assert [tuple(row) for row in rows] == [("thief", 1), ("", 1)]
    assert await asyncio.to_thread(read, kafka, topic, 2) == [1, 2]


async def test_lost_connection_before_the_commit_is_tried_again(pool: Pool, kafka: str, topic: str) -> None:
    """A session that the server ends inside the transaction costs a new epoch, not the write."""
    calls = 0

    async def run(transaction: OutboxTransaction) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            await transaction.sql.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return await note(topic, 5)(transaction)

    async with writer(pool, kafka) as writing:
        assert await writing.write(run) == 5
    assert await asyncio.to_thread(read, kafka, topic, 1) == [5]


async def test_unanswered_commit_is_told_as_unknown(pool: Pool, kafka: str, topic: str, database_url: str) -> None:
    """If the session ends while it commits, the caller hears that nobody knows, and the writer goes on anew."""
    async with session(database_url) as sql:
        await sql.execute("""
            CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
            CREATE CONSTRAINT TRIGGER die AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.number = 13) EXECUTE FUNCTION die()""")
    async with writer(pool, kafka) as writing:
        with pytest.raises(WriteUnknownError):
            await writing.write(note(topic, 13))
        assert await writing.write(note(topic, 14)) == 14
    assert await asyncio.to_thread(read, kafka, topic, 1) == [14]


async def test_writer_without_a_lane_waits_for_one(pool: Pool, kafka: str, topic: str) -> None:
    """With every lane leased a write is refused in time, known not to be written; it succeeds once one is free."""
    async with AsyncExitStack() as first:
        holder = await first.enter_async_context(writer(pool, kafka, count=1))
        await holder.write(note(topic, 0))
        waiting = await first.enter_async_context(writer(pool, kafka, count=1))
        await tried(waiting)
        with pytest.raises(NotWrittenError, match="leased to other processes"):
            await waiting.write(note(topic, 1), patience=0.6)
        await holder.__aexit__(None, None, None)
        assert await waiting.write(note(topic, 2)) == 2
    assert await pool.fetchval("SELECT array_agg(number) FROM note") == [0, 2]


async def test_broker_down_is_told_and_nothing_written(pool: Pool) -> None:
    """Without a broker no transaction is begun, and the caller hears why."""
    async with writer(pool, "127.0.0.1:1") as writing:
        await tried(writing)
        with pytest.raises(NotWrittenError, match="KafkaUnavailableError"):
            await writing.write(note("nowhere", 1), patience=0.5)
    assert await pool.fetchval("SELECT count(*) FROM note") == 0
