"""The saga log on real Kafka and PostgreSQL: checkpoints, audit log, commands, deadlines, crashes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.copies import copies
from tests.integration.consumers.saga_log.rig import PARTITIONS, Rig, open_rig, ready
from tests.sagas import Filled, Held, OrderAsked, Partition, Placed, Settled, Unheld, Unplaced
from tradesaga.consumers.saga_log.fold import fold_record
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.outbox import lane_rows
from tradesaga.infra.outbox.processor import Received, Transaction
from tradesaga.infra.postgres.database import session
from tradesaga.infra.saga_queries import encode_progress
from tradesaga.schemas.messages.lifecycle import AbortRequested, RetryRequested, StepBarred, StepFailed

pytestmark = pytest.mark.stack


@pytest.fixture
async def rig(kafka: str, database_url: str) -> AsyncIterator[Rig]:
    """Give a saga with topics and a database of its own."""
    async with open_rig(kafka, database_url) as rig:
        yield rig


def asked(key: str = "k") -> OrderAsked:
    """Make a start."""
    return OrderAsked(idempotency_key=key, account="A")


async def test_a_saga_runs_to_its_end(rig: Rig) -> None:
    """The checkpoint holds state, steps, context as sent, and the broker's times; each record has its audit row."""
    saga_id = uuid4()
    async with rig.running():
        started = await rig.say(saga_id, asked())
        for event in (Held(amount="5.50"), Placed(), Filled()):
            await rig.say(saga_id, event)
        last = await rig.say(saga_id, Settled())
        row = await rig.reached(saga_id, "COMPLETED")
    assert json.loads(row["completed_steps"]) == ["hold", "place", "fill", "settle"]
    assert json.loads(row["compensated_steps"]) == []
    assert (row["current_step_index"], row["seq"], row["version"]) == (4, 5, 1)
    assert list(json.loads(row["context"])) == ["order-asked", "held", "placed", "filled", "settled"]
    assert '"held":{"amount":"5.50"}' in row["context"]
    assert row["created_at"] == started.recorded_at
    assert row["updated_at"] == last.recorded_at
    assert row["deadline"] == started.recorded_at + timedelta(minutes=5)
    assert row["deadline_due"] is None
    events = await rig.events(saga_id)
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]
    assert [event["context_added"] for event in events] == ["order-asked", "held", "placed", "filled", "settled"]
    assert events[-1]["hash"] == row["head"]
    assert {event["error"] for event in events} == {None}


async def test_what_was_done_is_taken_back_last_step_first(rig: Rig) -> None:
    """Each compensation is asked for after the one before it is confirmed, and carries the saga's context."""
    saga_id = uuid4()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with rig.running():
        for event in (asked(), Held(), Placed()):
            await rig.say(saga_id, event)
        failed = await rig.say(saga_id, StepFailed(step="fill", attempts=3, reason="no"), traceparent=trace)
        (first,) = await rig.read("commands", 1)
        assert first.headers["ce_type"] == f"{rig.saga.name}.unplace.v1".encode()
        assert first.headers["ts_step"] == b"place"
        assert first.headers["ce_causationid"] == failed.header("ce_id")
        assert first.headers["traceparent"][:36] == trace[:36].encode()
        assert first.headers["traceparent"] != trace.encode()
        assert list(json.loads(first.headers["ts_context"])) == ["order-asked", "held", "placed"]
        assert json.loads(first.value)["reason"] == "failed: fill"
        await rig.say(saga_id, Unplaced())
        _, second = await rig.read("commands", 2)
        assert second.headers["ts_step"] == b"hold"
        await rig.say(saga_id, Unheld())
        row = await rig.reached(saga_id, "ABORTED")
    assert json.loads(row["compensated_steps"]) == ["hold", "place"]


async def test_the_deadline_is_a_fact(kafka: str, database_url: str) -> None:
    """A saga past its deadline is told so by a record, once; it settles what is outstanding and takes back the rest."""
    saga_id = uuid4()
    async with open_rig(kafka, database_url, timedelta(seconds=1)) as rig:
        async with rig.running():
            await rig.say(saga_id, asked())
            await rig.say(saga_id, Held())
            await rig.reached(saga_id, "COMPENSATING")
            (bar,) = await rig.read("commands", 1)
            assert bar.headers["ts_step"] == b"place"
            await rig.say(saga_id, StepBarred(step="place"))
            await rig.say(saga_id, Unheld())
            await rig.reached(saga_id, "ABORTED")
        events = await rig.events(saga_id)
    types = [event["event_type"].split(".")[1] for event in events]
    assert types.count("deadline-elapsed") == 1
    assert events[types.index("deadline-elapsed")]["seq"] == types.index("deadline-elapsed") + 1


async def test_a_deadline_that_passed_while_nobody_ran_is_found(kafka: str, database_url: str) -> None:
    """A saga log that comes back publishes what has fallen due in between."""
    saga_id = uuid4()
    async with open_rig(kafka, database_url, timedelta(seconds=1)) as rig:
        async with rig.running() as worker:
            await ready(worker)
            await rig.say(saga_id, asked())
            await rig.reached(saga_id, "IDLE")
        await asyncio.sleep(1.1)
        assert await rig.pool.fetchval("SELECT count(*) FROM saga_event") == 1
        async with rig.running():
            await rig.reached(saga_id, "COMPENSATING")


async def test_an_operator_decides(rig: Rig) -> None:
    """An abort takes the saga back; a retry of what has not failed is refused, and its audit row says why."""
    saga_id = uuid4()
    async with rig.running():
        await rig.say(saga_id, asked())
        await rig.say(saga_id, Held())
        await rig.say(saga_id, RetryRequested(operator="ann", reason="again", step="settle"))
        await rig.say(saga_id, AbortRequested(operator="ann", reason="wrong account"))
        await rig.reached(saga_id, "COMPENSATING")
    errors = [event["error"] for event in await rig.events(saga_id)]
    assert errors == [None, None, "the saga is RUNNING, not FAILED", None]


async def test_a_crash_between_records_loses_and_repeats_nothing(rig: Rig) -> None:
    """Stopped and started over and over while records arrive, the log has each once, and every saga ends."""
    sagas = [uuid4() for _ in range(20)]

    async def feed() -> None:
        for event in (asked(), Held(), Placed(), Filled(), Settled()):
            for saga_id in sagas:
                await rig.say(saga_id, event)
            await asyncio.sleep(0.3)

    feeding = asyncio.create_task(feed())
    while not feeding.done():
        async with rig.running() as worker:
            await ready(worker)
            await asyncio.sleep(0.2)
    async with rig.running():
        await rig.recorded(5 * len(sagas))
    states = await rig.pool.fetch("SELECT state, seq FROM saga")
    assert [tuple(row) for row in states] == [("COMPLETED", 5)] * len(sagas)
    assert await rig.pool.fetchval("SELECT count(*) FROM saga_event") == 5 * len(sagas)


async def test_a_second_owner_takes_over_while_the_first_still_runs(rig: Rig) -> None:
    """Two logs of one group share the partitions; what either had in mind counts once."""
    sagas = [uuid4() for _ in range(12)]
    async with rig.running():
        for saga_id in sagas:
            await rig.say(saga_id, asked())
            await rig.say(saga_id, Held())
        async with rig.running():
            for saga_id in sagas:
                await rig.say(saga_id, Placed())
                await rig.say(saga_id, Filled())
                await rig.say(saga_id, Settled())
            for saga_id in sagas:
                await rig.reached(saga_id, "COMPLETED")
    assert await rig.pool.fetchval("SELECT count(*) FROM saga_event") == 5 * len(sagas)


async def test_a_replay_of_the_stored_records_gives_the_same_checkpoint(rig: Rig) -> None:
    """Folding the audit log's records again, without a database, comes to the same state, context and hash."""
    saga_id = uuid4()
    async with rig.running():
        for event in (asked(), Held(), Held(), StepFailed(step="place", attempts=3, reason="no"), Unheld()):
            await rig.say(saga_id, event)
        row = await rig.reached(saga_id, "ABORTED")
    tracked = Tracked(saga_id, rig.rules.home(saga_id))
    for record in await stored(rig, saga_id):
        tracked = fold_record(rig.rules, tracked, record).tracked or tracked
    assert tracked.snapshot is not None
    assert encode_progress(rig.rules.machine, tracked.snapshot.state) == row["progress"]
    assert tracked.snapshot.context.decode() == row["context"]
    assert (tracked.snapshot.head, tracked.snapshot.seq) == (row["head"], row["seq"])


async def stored(rig: Rig, saga_id: UUID) -> list[Record]:
    """Give the records of a saga as the audit log keeps them."""
    return [
        Record(
            row["topic"],
            row["partition"],
            row["offset"],
            round(row["recorded_at"].timestamp() * 1000),
            str(saga_id).encode(),
            row["value"],
            [(name, value.encode()) for name, value in json.loads(row["headers"]).items()],
        )
        for row in await rig.events(saga_id)
    ]


def batch(rig: Rig, sagas: int, offset: int) -> list[Record]:
    """Make starts, successes, repeats, failures and unreadable records of so many sagas, from this offset on."""
    made: list[Record] = []
    for _ in range(sagas):
        partition = Partition(rig.saga, partitions=PARTITIONS)
        held = partition.record(Held())
        made += [partition.start(), held, held, partition.record(StepFailed(step="place", attempts=1, reason="no"))]
        made += [partition.raw(b"{", []), partition.raw(b"{", list(held.headers))]
    now = time.time_ns() // 1_000_000
    return [record._replace(offset=offset + index, recorded_ms=now) for index, record in enumerate(made)]


async def test_a_batch_takes_as_many_statements_whatever_its_size(rig: Rig, database_url: str) -> None:
    """One read, one upsert, one COPY of audit rows, in one transaction: for one saga as for 150."""
    processor = SagaLog(rig.rules)
    places = [(rig.topic("events"), number) for number in range(PARTITIONS)]
    counts: list[int] = []
    async with session(database_url) as sql:
        lanes = await lane_rows.acquire(sql, processor.group, places, "test")
        ids = {lane.partition: lane.id for lane in lanes}
        await processor.open(sql, lanes, lambda: None)
        seen: list[str] = []
        sql.add_query_logger(lambda query: seen.append(query.query))
        for offset, sagas in ((0, 2), (1000, 1), (2000, 150)):
            seen.clear()
            async with sql.transaction():
                transaction = Transaction(sql, {lane.id: lane for lane in lanes})
                records = batch(rig, sagas, offset)
                with copies(seen.append):
                    await processor.apply(transaction, [Received(ids[record.partition], record) for record in records])
            processor.committed()
            await asyncio.sleep(0)  # the driver tells of a statement in the loop's next turn
            counts.append(len(seen))
        rows = await sql.fetchval("SELECT count(*) FROM saga_event")
    # The first batch also teaches the driver the types of its parameters.
    assert counts[1:] == [5, 5], seen
    assert rows == 6 * 153


async def test_the_audit_log_cannot_be_changed(rig: Rig) -> None:
    """Its rows refuse to be updated or deleted."""
    async with rig.running():
        await rig.say(uuid4(), asked())
        await rig.recorded(1)
    for statement in ("UPDATE saga_event SET error = 'x'", "DELETE FROM saga_event", "TRUNCATE saga_event"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await rig.pool.execute(statement)
