"""The same five steps on the product itself.

`python -m tests.benchmarks.product init | steps | log | sealer | load COUNT RATE` (rate 0: flat out).
"""

import asyncio
import json
import sys
import time
from typing import Any
from uuid import uuid4

import uvloop

from consumers.audit.service import serve as seal
from consumers.runtime.service import serve
from consumers.saga_log.processor import SagaLog
from consumers.saga_log.rules import Rules
from infra.clock import SystemClock, format_time, new_id
from infra.database import migrate, open_pool, session
from infra.garbage import collect_seldom
from infra.kafka import Producer
from infra.lanes.worker import Worker
from infra.settings import load_settings
from infra.topics import ensure_topics
from schemas.envelope import Envelope, splice
from schemas.message import wire_type
from schemas.topics import PARTITIONS, events_topic, saga_topics
from tests.benchmarks.noop import BenchRequested, bench, steps

REQUEST = BenchRequested(
    idempotency_key="k", account="A-1001", symbol="AAPL", side="BUY", quantity="100", limit="101.25"
)


async def init() -> None:
    """Make topics and tables."""
    settings = load_settings()
    await asyncio.to_thread(migrate, settings.database_for())
    await ensure_topics(settings.brokers(), saga_topics(bench.name))


async def run_steps() -> None:
    """Run the participant."""
    await serve(steps, load_settings())


async def run_log() -> None:
    """Run the saga log."""
    settings = load_settings()
    async with await open_pool(settings.database_for(), max_size=1) as pool:
        await Worker(SagaLog(Rules(bench, PARTITIONS)), pool, settings.brokers(), "bench-log").run()


async def run_sealer() -> None:
    """Run the sealer; TRADESAGA_APP names the module of this saga."""
    await seal(load_settings())


def _start() -> Envelope:
    value = REQUEST.to_wire()
    return Envelope(
        type=wire_type(bench.name, BenchRequested),
        id=str(new_id()),
        source="/bench/load",
        saga_id=str(uuid4()),
        time=format_time(SystemClock().now()),
        request="0" * 64,
        context=splice(b"", BenchRequested.NAME, value),
    )


async def load(count: int, rate: int) -> None:
    """Start sagas, at `rate` a second or flat out, wait for their end, print one JSON object."""
    settings = load_settings()
    producer = Producer(settings.brokers(), "load")
    await producer.start()
    async with session(settings.database_for()) as db:
        before = await db.fetchval("SELECT count(*) FROM saga WHERE state = 'COMPLETED'")
        since = await db.fetchval("SELECT clock_timestamp()")
        began = time.monotonic()
        sent: list[asyncio.Future[Any]] = []
        for index in range(count):
            start = _start()
            topic, key = events_topic(bench.name), start.saga_id.encode()
            sent.append(await producer.send(topic, key, REQUEST.to_wire(), start.to_headers()))
            if rate and (ahead := index / rate - (time.monotonic() - began)) > 0:
                await asyncio.sleep(ahead)
        await asyncio.gather(*sent)
        while await db.fetchval("SELECT count(*) FROM saga WHERE state = 'COMPLETED'") < before + count:
            await asyncio.sleep(0.1)
            if time.monotonic() - began > 120 + (count / rate if rate else 0):
                raise TimeoutError("the product did not end its sagas in time")
        seconds = time.monotonic() - began
        p50, p99 = await db.fetchval(
            "SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP "
            "(ORDER BY extract(epoch FROM updated_at - created_at)) FROM saga WHERE created_at >= $1",
            since,
        )
    await producer.stop()
    print(json.dumps({"sagas": count, "per_second": count / seconds, "p50": p50, "p99": p99}))  # noqa: T201


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    collect_seldom()
    roles = {"init": init, "steps": run_steps, "log": run_log, "sealer": run_sealer}
    uvloop.run(roles[role]() if role in roles else load(*map(int, arguments)))
