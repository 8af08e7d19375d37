"""Starts waiting sagas, and sends the reports that they wait for; waits until the database shows what came of it."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from uuid import uuid4

import uvloop

from tests.benchmarks.scale.waiting import Report, Requested, waiting
from tests.benchmarks.stage import Stage
from tradesaga.infra.clock import SystemClock, format_time, new_id
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.kafka.topics import ensure_topics
from tradesaga.infra.postgres.migrate import migrate
from tradesaga.infra.telemetry.tracing import new_traceparent
from tradesaga.schemas.envelope import Envelope, splice
from tradesaga.schemas.messages.message import Message, wire_type
from tradesaga.schemas.topics import events_topic, saga_topics

APP = "tests.benchmarks.scale.waiting"
TOPIC = events_topic(waiting.name)
REQUEST = Requested(account="A-1001", symbol="AAPL", quantity="100")
IN_FLIGHT = (
    "SELECT count(*) FROM step_execution WHERE step = 'fill' AND input IS NOT NULL AND saga_id = ANY($1::uuid[])"
)
ENDED = "SELECT count(*) FROM saga WHERE state = 'COMPLETED' AND saga_id = ANY($1::uuid[])"
LAST_IN_FLIGHT = """
SELECT extract(epoch FROM max(pg_xact_commit_timestamp(xmin)))::float8 AS at FROM step_execution
WHERE step = 'fill' AND saga_id = ANY($1::uuid[])
"""
LAST_ENDED = """
SELECT extract(epoch FROM max(pg_xact_commit_timestamp(xmin)))::float8 AS at FROM saga WHERE saga_id = ANY($1::uuid[])
"""
LAST = 100
"""The sagas asked for again and again; all are asked for only when these are there, or the asking would cost."""
_NOTHING = "0" * 64


def prepare(stage: Stage) -> None:
    """Make tables and topics."""
    migrate(stage.database)
    asyncio.run(ensure_topics(stage.environment["TRADESAGA_KAFKA"], saga_topics(waiting.name)))


def begin(stage: Stage, count: int, *, reported: bool = False) -> tuple[list[str], float]:
    """Start sagas flat out, each with its report right behind it or with none; give their ids and when it began."""
    sagas = [str(uuid4()) for _ in range(count)]
    began = time.time()
    uvloop.run(_send(stage, ((saga, each) for saga in sagas for each in ((REQUEST, _report(saga))[: 1 + reported]))))
    return sagas, began


def report(stage: Stage, sagas: Sequence[str]) -> float:
    """Send the reports that these sagas wait for; give when it began."""
    began = time.time()
    uvloop.run(_send(stage, ((saga, _report(saga)) for saga in sagas)))
    return began


def wait(stage: Stage, question: str, sagas: Sequence[str], seconds: float) -> None:
    """Wait until the count that is asked for is that of all these sagas. Raises `TimeoutError`."""
    until = time.monotonic() + seconds
    for some in (sagas[-LAST:], sagas):
        while (found := stage.ask(question, some)[0][0]) < len(some):
            if time.monotonic() > until:
                raise TimeoutError(f"only {found} of {len(some)} sagas have come so far within {seconds:.0f} seconds")
            time.sleep(0.05)


def _report(saga: str) -> Report:
    return Report(report_id=saga, quantity="100")


async def _send(stage: Stage, messages: Iterable[tuple[str, Message]]) -> None:
    producer = Producer(stage.environment["TRADESAGA_KAFKA"], "scale-load")
    await producer.start()
    acks = [
        await producer.send(TOPIC, saga.encode(), message.to_wire(), _envelope(saga, message).to_headers())
        for saga, message in messages
    ]
    await asyncio.gather(*acks)
    await producer.stop()


def _envelope(saga: str, message: Message) -> Envelope:
    started = isinstance(message, Requested)
    return Envelope(
        type=wire_type(waiting.name, type(message)),
        id=str(new_id()),
        source="/scale/load" if started else "/scale/outside",
        saga_id=saga,
        time=format_time(SystemClock().now()),
        request=_NOTHING if started else "",
        traceparent=new_traceparent() if started else "",
        context=splice(b"", Requested.NAME, message.to_wire()) if started else b"",
    )
