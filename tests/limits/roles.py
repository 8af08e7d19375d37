"""The processes of one measurement: `python -m tests.limits.roles init | steps | log | load COUNT SECONDS`."""

import asyncio
import sys
from typing import Any
from uuid import uuid4

import uvloop

from tests.limits.sleepy import NapRequested, sleepy, steps
from tradesaga.consumers.runtime.service import serve
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.clock import SystemClock, format_time, new_id
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.kafka.topics import ensure_topics
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import open_pool
from tradesaga.infra.postgres.migrate import migrate
from tradesaga.infra.settings import load_settings
from tradesaga.schemas.envelope import Envelope, splice
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.topics import PARTITIONS, events_topic, saga_topics


async def init() -> None:
    """Make topics and tables."""
    settings = load_settings()
    await asyncio.to_thread(migrate, settings.database_for())
    await ensure_topics(settings.brokers(), saga_topics(sleepy.name))


async def run_steps() -> None:
    """Run the participant."""
    await serve(steps, load_settings())


async def run_log() -> None:
    """Run the saga log."""
    settings = load_settings()
    async with await open_pool(settings.database_for(), max_size=1) as pool:
        await Worker(SagaLog(Rules(sleepy, PARTITIONS)), pool, settings.brokers(), "sleepy-log").run()


async def load(count: int, seconds: str) -> None:
    """Start sagas whose call takes `seconds`, as fast as the broker takes them."""
    settings = load_settings()
    producer = Producer(settings.brokers(), "load")
    await producer.start()
    sent: list[asyncio.Future[Any]] = []
    for _ in range(count):
        saga_id = str(uuid4())
        value = NapRequested(idempotency_key=saga_id, account="alice", seconds=seconds).to_wire()
        start = Envelope(
            type=wire_type(sleepy.name, NapRequested), id=str(new_id()), source="/limits/load", saga_id=saga_id,
            time=format_time(SystemClock().now()), request="0" * 64, context=splice(b"", NapRequested.NAME, value),
        )  # fmt: skip
        sent.append(await producer.send(events_topic(sleepy.name), saga_id.encode(), value, start.to_headers()))
    await asyncio.gather(*sent)
    await producer.stop()


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    roles = {"init": init, "steps": run_steps, "log": run_log}
    uvloop.run(roles[role]() if role in roles else load(int(arguments[0]), arguments[1]))
