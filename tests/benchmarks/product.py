"""The same five steps on the product itself.

`python -m tests.benchmarks.product init | steps | log | sealer | load COUNT RATE [KIND [FILE]]`: rate 0 is flat out,
the kind happy or compensated; the file gets the time at which each saga was meant to start.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvloop

from tests.benchmarks.noop import BenchRequested, bench, steps
from tradesaga.consumers.audit.seal.service import serve as seal
from tradesaga.consumers.runtime.service import serve
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.clock import SystemClock, format_time, new_id
from tradesaga.infra.garbage_collection import tune_garbage_collector
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.kafka.topics import ensure_topics
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import open_pool, session
from tradesaga.infra.postgres.migrate import migrate
from tradesaga.infra.settings import Settings, load_settings
from tradesaga.infra.telemetry.health import serve_probes
from tradesaga.infra.telemetry.tracing import configure_tracing, new_traceparent
from tradesaga.schemas.envelope import Envelope, splice
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.topics import PARTITIONS, events_topic, saga_topics

REQUESTS = {
    kind: BenchRequested(
        idempotency_key="k", account="A-1001", symbol="AAPL", side="BUY", quantity=quantity, limit="101.25"
    )
    for kind, quantity in (("happy", "100"), ("compensated", "0"))
}
ENDED = "SELECT count(*) FROM saga WHERE state IN ('COMPLETED', 'ABORTED', 'FAILED') AND saga_id = ANY($1::uuid[])"
LAST = 100
"""The sagas asked for again and again; all are asked for only when these have ended, or the asking would cost."""


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


def _start(request: BenchRequested, ratio: float) -> Envelope:
    return Envelope(
        type=wire_type(bench.name, BenchRequested),
        id=str(new_id()),
        source="/bench/load",
        saga_id=str(uuid4()),
        time=format_time(SystemClock().now()),
        request="0" * 64,
        traceparent=new_traceparent(ratio),
        context=splice(b"", BenchRequested.NAME, request.to_wire()),
    )


async def _send(settings: Settings, request: BenchRequested, count: int, rate: int) -> dict[str, float]:
    """Start sagas; give the time at which each was meant to start, or was started flat out."""
    producer = Producer(settings.brokers(), "load")
    await producer.start()
    starts: dict[str, float] = {}
    sent: list[asyncio.Future[Any]] = []
    value, topic = request.to_wire(), events_topic(bench.name)
    began = time.time()
    for index in range(count):
        if rate and (ahead := began + index / rate - time.time()) > 0:
            await asyncio.sleep(ahead)
        start = _start(request, settings.trace_ratio)
        starts[start.saga_id] = began + index / rate if rate else time.time()
        sent.append(await producer.send(topic, start.saga_id.encode(), value, start.to_headers()))
    await asyncio.gather(*sent)
    await producer.stop()
    return starts


async def load(count: int, rate: int, kind: str = "happy", file: str = "") -> None:
    """Start sagas, at `rate` a second or flat out, wait for their end, print one JSON object."""
    settings = load_settings()
    async with session(settings.database_for()) as db:
        since = await db.fetchval("SELECT clock_timestamp()")
        began = time.monotonic()
        starts = await _send(settings, REQUESTS[kind], count, rate)
        _note(file, starts)
        sagas = list(starts)
        while await db.fetchval(ENDED, sagas[-LAST:]) < min(LAST, count) or await db.fetchval(ENDED, sagas) < count:
            await asyncio.sleep(0.05)
            if time.monotonic() - began > 120 + (count / rate if rate else 0):
                raise TimeoutError("the product did not end its sagas in time")
        seconds = time.monotonic() - began
        p50, p99 = await db.fetchval(
            "SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP "
            "(ORDER BY extract(epoch FROM updated_at - created_at)) FROM saga WHERE created_at >= $1",
            since,
        )
    print(json.dumps({"sagas": count, "per_second": count / seconds, "p50": p50, "p99": p99}))  # noqa: T201


def _note(file: str, starts: dict[str, float]) -> None:
    if file:
        Path(file).write_text(json.dumps(starts))


async def _serve(role: str) -> None:
    """Run a service as `tradesaga run` does: metrics served and spans sent where the environment says so."""
    settings = load_settings()
    configure_tracing(settings.trace_ratio, role)
    async with serve_probes(settings.http_host, settings.metrics_port):
        await SERVICES[role]()


SERVICES = {"steps": run_steps, "log": run_log, "sealer": run_sealer}


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    tune_garbage_collector()
    if role == "load":
        count, rate, *rest = arguments
        uvloop.run(load(int(count), int(rate), *rest))
    else:
        uvloop.run(init() if role == "init" else _serve(role))
