# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""One writer for each lane: whoever was overtaken, asleep or in the middle of a transaction, can do no harm."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.e2e import messages as m
from tests.e2e.crew import SESSION_MS, Crew
from tests.e2e.harness import Bench, Running, open_bench
from tests.keys import KEYS
from tests.waiting import until
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.clock import new_id
from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.kafka.connections import KafkaUnavailableError
from tradesaga.infra.outbox import lane_rows, publish
from tradesaga.infra.outbox.batch_writer import OutboxTransaction
from tradesaga.infra.outbox.outbox_writer import OutboxWriter
from tradesaga.infra.outbox.ownership import unique_owner_name
from tradesaga.infra.outbox.ports import Brokers, ProducerPort, make_producer
from tradesaga.infra.postgres.database import SESSION, Pool, open_pool, session
from tradesaga.schemas.topics import PARTITIONS, events_topic, starts_topic

pytestmark = pytest.mark.stack

BOTH = [("book", "forward"), ("pay", "forward")]
BOOKED_PAID = ["booked", "paid"]
HELD_AT_MOST = 8.0
"""Seconds after which PostgreSQL ends a session that idles in a transaction."""


@pytest.fixture
async def bench(kafka: str, database_url: str) -> AsyncIterator[Bench]:
    """Give a bench with nothing running on it."""
    async with open_bench(kafka, database_url) as bench:
        yield bench


def desk(bench: Bench) -> str:
    """Name the group of the local steps."""
    return StepProcessor(bench.kit.desk).group


async def halted(running: Running) -> str:
    """Wait until a worker has halted, and give its reason."""

    async def has_halted() -> bool:
        return bool(running.worker.health.halted)

    await until(has_halted)
    return running.worker.health.halted


async def watched_pool(url: str, statements: list[tuple[int, str]]) -> Pool:
    """Open a pool that notes what each of its connections sends."""

    async def note_all(connection: Any) -> None:
        def note(logged: Any) -> None:
            if not any(word in logged.query for word in ("pg_catalog", "'jit'")):  # the driver asks what a type is
                statements.append((id(connection), logged.query))

        connection.add_query_logger(note)

    return await asyncpg.create_pool(url, min_size=1, max_size=4, server_settings=SESSION, init=note_all)


async def test_the_fence_is_the_first_statement_of_every_transaction(bench: Bench, database_url: str) -> None:
    """Participants, saga log, intake and leased writers: no transaction of theirs sends anything before the epochs."""
    statements: list[tuple[int, str]] = []
    topic = events_topic(bench.saga.name)

    async def publish(transaction: OutboxTransaction) -> None:
        key = new_id()
        transaction.publish(Outgoing(topic, str(key), key, "note", [("ce_id", str(key).encode())], b"{}"))

    async with await watched_pool(database_url, statements) as pool, AsyncExitStack() as stack:
        stack.push_async_callback(bench.stop)
        processors = [StepProcessor(bench.kit.desk), StepProcessor(bench.kit.port), SagaLog(Rules(bench.saga))]
        for processor in (*processors, Intake(bench.saga, KEYS)):
            await bench.run(processor, pool=pool).ready()
        writer = OutboxWriter(pool, bench.kafka, "door", topic, 1, owner=unique_owner_name("test"))
        saga_id = await bench.ask(confirm="lost")
        value = m.Asked(idempotency_key="knocked").to_wire()
        await (await bench.producer.send(starts_topic(bench.saga.name), b"k", value, []))
        assert (await bench.settled(saga_id))["state"] == "ABORTED"
        await bench.stop()
        async with writer:
            await writer.write(publish)
    followers = [
        next(later for other, later in statements[at + 1 :] if other == connection).strip()
        for at, (connection, statement) in enumerate(statements)
        if statement.startswith("BEGIN")
    ]
    assert len(followers) > 10
    assert [follower for follower in followers if not follower.startswith(lane_rows.FENCE.strip())] == []


async def test_epochs_come_from_the_database(bench: Bench) -> None:
    """Each claim has a higher epoch than the one before, also under the same name: no owner can choose its own."""
    places = [(events_topic(bench.saga.name), number) for number in range(3)]
    async with bench.pool.acquire() as sql:
        claims = [await lane_rows.acquire(sql, "group", places, "the same owner") for _ in range(3)]
    assert [[lane.epoch for lane in lanes] for lanes in claims] == [[1] * 3, [2] * 3, [3] * 3]


async def test_what_comes_before_the_claim_is_thrown_away(bench: Bench) -> None:
    """While the claim waits for the former owner's transaction nothing is judged; afterwards everything is, once."""
    places = [(topic, number) for topic in StepProcessor(bench.kit.desk).topics for number in range(PARTITIONS)]
    async with bench.pool.acquire() as former:
        await lane_rows.acquire(former, desk(bench), places, "former")
        sagas = [await bench.ask() for _ in range(10)]
        async with former.transaction():
            await former.execute('SELECT FROM lane WHERE "group" = $1 FOR UPDATE', desk(bench))
            running = bench.run(StepProcessor(bench.kit.desk))
            await asyncio.sleep(2)
            assert not running.worker.health.ready
            assert await bench.pool.fetchval("SELECT count(*) FROM step_execution") == 0
    for saga_id in sagas:
        await bench.heard(saga_id, m.Paid)
        assert await bench.effects(saga_id) == BOTH


async def test_every_session_carries_the_server_s_limits(database_url: str) -> None:
    """Pools and single sessions alike: no statement, lock, idle transaction or dead peer lasts for ever."""
    limits = [name for name in SESSION if name.endswith("timeout") or name.startswith("tcp_")]
    async with await open_pool(database_url) as pool, pool.acquire() as pooled, session(database_url) as single:
        for sql in (pooled, single):
            found = {name: await sql.fetchval("SELECT current_setting($1)", name) for name in limits}
            assert not {name for name, value in found.items() if value in {"0", ""}}, found
    assert {"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "tcp_user_timeout"} < {*limits}


async def test_a_process_stopped_in_its_transaction(bench: Bench, tmp_path: Path) -> None:
    """SIGSTOP inside a transaction: another takes over once the server ends it; awake again, the first is fenced."""
    crew, second = (Crew(bench.saga.name, bench.kafka, bench.url, tmp_path / name) for name in ("first", "second"))
    for folder in (crew.folder, second.folder):
        folder.mkdir()
    await crew.start("desk")
    await crew.until_ready("desk")
    stuck = await bench.ask(pay="hang:1")

    async def inside() -> bool:
        return await bench.attempts(stuck, "pay") == [1]

    await until(inside)
    sleeper = crew.processes["desk"]
    try:
        sleeper.send_signal(signal.SIGSTOP)
        stopped = asyncio.get_running_loop().time()
        await second.start("desk")
        await bench.heard(stuck, m.Paid)
        assert asyncio.get_running_loop().time() - stopped < HELD_AT_MOST + SESSION_MS / 1000 + 12
        sagas = [await bench.ask() for _ in range(10)]
        for saga_id in sagas:
            await bench.heard(saga_id, m.Paid)
    finally:
        sleeper.send_signal(signal.SIGCONT)
    sagas += [await bench.ask() for _ in range(10)]
    for saga_id in sagas:
        await bench.heard(saga_id, m.Paid)

    async def started_over() -> bool:
        return "session restarted" in (crew.folder / "desk.log").read_text()

    await until(started_over, 30)
    await crew.stop()
    await second.stop()
    for saga_id in (stuck, *sagas):
        assert await bench.effects(saga_id) == BOTH


class Faltering:
    """A real producer that fails once, at its n-th record, as one does whose broker is gone for a moment."""

    def __init__(self, producer: ProducerPort, fails_at: int) -> None:
        self.start, self.stop = producer.start, producer.stop
        self.sent = 0
        self._producer, self._fails_at = producer, fails_at

    async def send_all(self, records: Sequence[Outgoing]) -> "Sequence[asyncio.Future[Any]]":
        """Send, or fail."""
        left = self._fails_at - self.sent
        if 0 < left <= len(records):
            self.sent += left
            await self._producer.send_all(records[: left - 1])
            raise KafkaUnavailableError("as planned")
        self.sent += len(records)
        return await self._producer.send_all(records)


async def test_a_producer_is_thrown_away_after_any_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A send that fails costs the producer: another says all that is not acknowledged; the first says no more."""
    made: list[Faltering] = []

    def make(brokers: Brokers, client_id: str) -> ProducerPort:
        made.append(Faltering(make_producer(brokers, client_id), 0 if made else 7))
        return made[-1]

    monkeypatch.setattr(publish, "make_producer", make)
    (running,) = await bench.serve(bench.kit.desk)
    sagas = [await bench.ask() for _ in range(10)]
    for saga_id in sagas:
        await bench.heard(saga_id, m.Paid)
    await asyncio.sleep(0.2)
    assert (len(made), made[0].sent) == (2, 7)
    assert running.worker.health.restarts == 1
    for saga_id in sagas:
        said = bench.tail.of(saga_id, m.Booked, m.Paid)
        assert [name for name, _ in dict.fromkeys((each.name, each.header("ce_id")) for each in said)] == BOOKED_PAID
        assert await bench.effects(saga_id) == BOTH


def cut_off(kafka: str, topic: str, partition: int, before: int) -> None:
    """Delete a partition's records up to an offset, as retention does."""
    admin = AdminClient({"bootstrap.servers": kafka})
    for done in admin.delete_records([TopicPartition(topic, partition, before)]).values():
        done.result(30)


@pytest.mark.parametrize("where", ["beyond the end", "before the beginning"])
async def test_an_offset_that_the_broker_does_not_have_halts(bench: Bench, where: str) -> None:
    """Nothing is read, the worker says what differs and is not ready; once a person has put it right, it goes on."""
    (running,) = await bench.serve(bench.kit.desk)
    warm = await bench.ask()
    await bench.heard(warm, m.Paid)
    await bench.stop()
    (start,) = bench.tail.of(warm, m.Asked)
    group, lane = desk(bench), '"group" = $1 AND topic = $2 AND partition = $3'
    right = await bench.pool.fetchval(f"SELECT next_offset FROM lane WHERE {lane}", group, start.topic, start.partition)
    if where == "beyond the end":
        wrong = right + 1_000
    else:
        wrong = right - 1
        await asyncio.to_thread(cut_off, bench.kafka, start.topic, start.partition, right)
    move = f"UPDATE lane SET next_offset = $4 WHERE {lane}"
    await bench.pool.execute(move, group, start.topic, start.partition, wrong)
    running = bench.run(StepProcessor(bench.kit.desk))
    assert f"the database is at offset {wrong}" in await halted(running)
    saga_id = await bench.ask()
    await asyncio.sleep(0.5)
    assert not running.worker.health.ready
    assert await bench.row(saga_id, "book") is None
    await bench.pool.execute(move, group, start.topic, start.partition, right)
    await bench.heard(saga_id, m.Paid)
    assert running.worker.health.halted == ""


async def test_a_database_that_was_replaced_halts(bench: Bench) -> None:
    """A group that has worked before meets a database that knows nothing of it: nothing is done a second time."""
    await bench.serve(bench.kit.desk)
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Paid)
    await bench.stop()
    await bench.pool.execute("TRUNCATE lane, step_execution, outbox")
    running = bench.run(StepProcessor(bench.kit.desk))
    assert "knows nothing of" in await halted(running)
    for _ in range(3):
        await asyncio.sleep(0.5)
        assert await bench.pool.fetchval("SELECT count(*) FROM lane") == 0
    assert await bench.effects(saga_id) == BOTH
