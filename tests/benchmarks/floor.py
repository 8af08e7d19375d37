# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The yardstick: the bare step path without fencing, metrics, typed context or compensation, on the same servers.

`python -m tests.benchmarks.floor init | steps | log | load COUNT RATE [FILE]`: rate 0 is flat out; the file gets the
time at which each saga was meant to start.
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pydantic import BaseModel

TOPIC = "floor"
STEPS = ("validate_order", "reserve_funds", "place_order", "confirm_fill", "settle")
NEXT = {"TradeRequested": 0, **{f"{step}.completed": index + 1 for index, step in enumerate(STEPS)}}
PAYLOAD = {
    "account": "A-1001", "symbol": "AAPL", "side": "BUY", "quantity": 100, "limit": "101.25", "currency": "USD",
}  # fmt: skip
ENDED = "SELECT count(*) FROM floor_saga WHERE state = 3 AND saga_id = ANY($1::uuid[])"
LAST = 100
"""The sagas asked for again and again; all are asked for only when these have ended."""
TABLES = """
DROP TABLE IF EXISTS floor_step, floor_outbox, floor_saga, floor_log;
CREATE TABLE floor_step (saga_id uuid, step smallint, phase smallint, status smallint, result bytea,
    created_at timestamptz DEFAULT now(), PRIMARY KEY (saga_id, step, phase));
CREATE TABLE floor_outbox (id uuid PRIMARY KEY, topic text, key bytea, etype text, payload bytea,
    available_at timestamptz DEFAULT now());
CREATE TABLE floor_saga (saga_id uuid PRIMARY KEY, state smallint, step_index smallint, completed jsonb, context bytea,
    version int, created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(), deadline timestamptz)
    WITH (fillfactor = 70);
CREATE TABLE floor_log (saga_id uuid, seq smallint, etype text, ts timestamptz DEFAULT now(), payload bytea,
    hash bytea, PRIMARY KEY (saga_id, seq));
"""


class Envelope(BaseModel):
    """One record's value."""

    id: UUID
    saga_id: UUID
    type: str
    step: str | None = None
    attempt: int = 1
    time: datetime
    data: dict[str, Any]


async def connect() -> asyncpg.Connection:
    """Open a session on the given database."""
    return await asyncpg.connect(os.environ["TRADESAGA_DATABASE_URL"])


async def start_producer() -> AIOKafkaProducer:
    """Start an idempotent producer."""
    producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["TRADESAGA_KAFKA"], enable_idempotence=True, linger_ms=1, max_batch_size=131072
    )
    await producer.start()
    return producer


async def start_consumer(group: str) -> AIOKafkaConsumer:
    """Join a group that reads from the beginning."""
    consumer = AIOKafkaConsumer(
        TOPIC, bootstrap_servers=os.environ["TRADESAGA_KAFKA"], group_id=group, enable_auto_commit=False,
        auto_offset_reset="earliest", max_poll_records=1000,
    )  # fmt: skip
    await consumer.start()
    return consumer


async def run_steps() -> None:
    """Run all five steps: decode, answer, group commit with the outbox, publish while the next batch runs."""
    producer, consumer, db = await start_producer(), await start_consumer("floor-steps"), await connect()
    published: list[UUID] = []
    pending: asyncio.Task[None] | None = None

    async def publish(rows: list[tuple[UUID, bytes, str, bytes]]) -> None:
        sent = [
            await producer.send(TOPIC, value, key=key, headers=[("type", kind.encode())])
            for _, key, kind, value in rows
        ]
        await asyncio.gather(*sent)
        published.extend(row[0] for row in rows)

    while True:
        batch = await consumer.getmany(timeout_ms=200, max_records=1000)
        work = [
            (index, Envelope.model_validate_json(record.value or b""))
            for records in batch.values()
            for record in records
            if (index := NEXT[dict(record.headers)["type"].decode()]) < len(STEPS)
        ]
        if not work:
            continue
        rows, results = await _answer(work)
        await _commit(db, rows, results, published)
        if pending is not None:
            await pending
        pending = asyncio.create_task(publish(rows))
        await consumer.commit()


async def _answer(
    work: list[tuple[int, Envelope]],
) -> tuple[list[tuple[UUID, bytes, str, bytes]], list[tuple[UUID, int, bytes]]]:
    async def run(index: int, event: Envelope) -> dict[str, Any]:
        async with asyncio.timeout(5):  # noqa: ASYNC100 - the sketch pays for a time limit, as a real step does
            return {"ok": True, "step": STEPS[index], "ref": str(event.saga_id)[:8], "qty": 100, "px": "101.25"}

    answers = await asyncio.gather(*(run(index, event) for index, event in work))
    rows: list[tuple[UUID, bytes, str, bytes]] = []
    results: list[tuple[UUID, int, bytes]] = []
    for (index, event), answer in zip(work, answers, strict=True):
        step = STEPS[index]
        said = Envelope(
            id=uuid4(), saga_id=event.saga_id, type=f"{step}.completed", step=step, time=datetime.now(UTC),
            data={**event.data, step: answer},
        )  # fmt: skip
        rows.append((said.id, event.saga_id.bytes, said.type, said.model_dump_json().encode()))
        results.append((event.saga_id, index, orjson.dumps(answer)))
    return rows, results


async def _commit(
    db: asyncpg.Connection,
    rows: list[tuple[UUID, bytes, str, bytes]],
    results: list[tuple[UUID, int, bytes]],
    published: list[UUID],
) -> None:
    done = published[:]
    published.clear()
    async with db.transaction():
        fresh = await db.fetch(
            "INSERT INTO floor_step (saga_id, step, phase, status, result) SELECT a, b, 0, 1, c "
            "FROM unnest($1::uuid[], $2::smallint[], $3::bytea[]) AS t (a, b, c) "
            "ON CONFLICT DO NOTHING RETURNING saga_id, step",
            *(list(column) for column in zip(*results, strict=True)),
        )
        if len(fresh) != len(results):
            known = {(row["saga_id"], row["step"]) for row in fresh}
            rows[:] = [row for row, (saga, step, _) in zip(rows, results, strict=True) if (saga, step) in known]
        await db.execute(
            "INSERT INTO floor_outbox (id, topic, key, etype, payload) SELECT a, 'floor', b, c, d "
            "FROM unnest($1::uuid[], $2::bytea[], $3::text[], $4::bytea[]) AS t (a, b, c, d)",
            [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows], [r[3] for r in rows],
        )  # fmt: skip
        if done:
            await db.execute("DELETE FROM floor_outbox WHERE id = ANY($1)", done)


async def run_log() -> None:
    """Keep each saga's row and its chained log."""
    consumer, db = await start_consumer("floor-log"), await connect()
    sagas: dict[UUID, dict[str, Any]] = {}
    while True:
        batch = await consumer.getmany(timeout_ms=200, max_records=2000)
        events = [Envelope.model_validate_json(record.value or b"") for rs in batch.values() for record in rs]
        if not events:
            continue
        log: list[tuple[UUID, int, str, bytes, bytes]] = []
        touched: dict[UUID, dict[str, Any]] = {}
        for event in events:
            saga = sagas.setdefault(event.saga_id, {"state": 1, "done": [], "context": {}, "seq": 0, "hash": bytes(32)})
            log.append(_fold(saga, event))
            touched[event.saga_id] = saga
        await _checkpoint(db, log, touched)
        for saga_id, saga in touched.items():
            if len(saga["done"]) == len(STEPS):
                sagas.pop(saga_id, None)
        await consumer.commit()


def _fold(saga: dict[str, Any], event: Envelope) -> tuple[UUID, int, str, bytes, bytes]:
    saga["seq"] += 1
    saga["context"] = event.data
    if event.step and event.step not in saga["done"]:
        saga["done"].append(event.step)
    if len(saga["done"]) == len(STEPS):
        saga["state"] = 3
    payload = orjson.dumps(event.data)
    saga["hash"] = hashlib.sha256(saga["hash"] + payload).digest()
    return event.saga_id, saga["seq"], event.type, payload, saga["hash"]


async def _checkpoint(
    db: asyncpg.Connection, log: list[tuple[UUID, int, str, bytes, bytes]], touched: dict[UUID, dict[str, Any]]
) -> None:
    values = list(touched.values())
    async with db.transaction():
        await db.execute(
            "INSERT INTO floor_log (saga_id, seq, etype, payload, hash) SELECT * FROM "
            "unnest($1::uuid[], $2::smallint[], $3::text[], $4::bytea[], $5::bytea[]) ON CONFLICT DO NOTHING",
            *(list(column) for column in zip(*log, strict=True)),
        )
        await db.execute(
            "INSERT INTO floor_saga (saga_id, state, step_index, completed, context, version) SELECT * FROM "
            "unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::jsonb[], $5::bytea[], $6::int[]) "
            "ON CONFLICT (saga_id) DO UPDATE SET state = excluded.state, step_index = excluded.step_index, "
            "completed = excluded.completed, context = excluded.context, version = excluded.version, "
            "updated_at = now()",
            list(touched), [v["state"] for v in values], [len(v["done"]) for v in values],
            [json.dumps(v["done"]) for v in values], [orjson.dumps(v["context"]) for v in values],
            [v["seq"] for v in values],
        )  # fmt: skip


async def load(count: int, rate: int, file: str = "") -> None:
    """Start sagas, at `rate` a second or flat out, wait for their end, print one JSON object."""
    producer, db = await start_producer(), await connect()
    since = await db.fetchval("SELECT clock_timestamp()")
    began, wall = time.monotonic(), time.time()
    starts: dict[str, float] = {}
    sent: list[asyncio.Future[Any]] = []
    for index in range(count):
        if rate and (ahead := wall + index / rate - time.time()) > 0:
            await asyncio.sleep(ahead)
        saga_id = uuid4()
        starts[str(saga_id)] = wall + index / rate if rate else time.time()
        event = Envelope(id=uuid4(), saga_id=saga_id, type="TradeRequested", time=datetime.now(UTC), data=PAYLOAD)
        value = event.model_dump_json().encode()
        sent.append(await producer.send(TOPIC, value, key=saga_id.bytes, headers=[("type", b"TradeRequested")]))
    _note(file, starts)
    await asyncio.gather(*sent)
    sagas = list(starts)
    while await db.fetchval(ENDED, sagas[-LAST:]) < min(LAST, count) or await db.fetchval(ENDED, sagas) < count:
        await asyncio.sleep(0.05)
        if time.monotonic() - began > 120 + (count / rate if rate else 0):
            raise TimeoutError("the floor did not end its sagas in time")
    seconds = time.monotonic() - began
    p50, p99 = await db.fetchval(
        "SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM updated_at - created_at)) "
        "FROM floor_saga WHERE created_at >= $1",
        since,
    )
    print(json.dumps({"sagas": count, "per_second": count / seconds, "p50": p50, "p99": p99}))  # noqa: T201
    await producer.stop()
    await db.close()


def _note(file: str, starts: dict[str, float]) -> None:
    if file:
        Path(file).write_text(json.dumps(starts))


async def init() -> None:
    """Make the topic and the tables anew."""
    admin = AIOKafkaAdminClient(bootstrap_servers=os.environ["TRADESAGA_KAFKA"])
    await admin.start()
    if TOPIC in await admin.list_topics():
        await admin.delete_topics([TOPIC])
        await asyncio.sleep(1)
    await admin.create_topics([NewTopic(TOPIC, 12, 1)])
    await admin.close()
    db = await connect()
    await db.execute(TABLES)
    await db.close()


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "load":
        count, rate, *file = arguments
        uvloop.run(load(int(count), int(rate), *file))
    else:
        uvloop.run({"init": init, "steps": run_steps, "log": run_log}[role]())
