"""Making a fact that no record brings about, publishing it, and seeing what the saga log makes of it."""

import asyncio
from typing import Final
from uuid import UUID

from aiokafka.errors import KafkaError

from tradesaga.infra.clock import SystemClock, format_time, new_id
from tradesaga.infra.errors import unavailable
from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.kafka.errors import KafkaUnavailableError
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.telemetry.tracing import new_traceparent
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.message import Event, wire_type
from tradesaga.schemas.topics import events_topic

RecordPosition = tuple[int, int]
"""The partition and offset that a record has got."""
_ACK_SECONDS: Final = 20.0
_JUDGED: Final = 'SELECT error FROM saga_event WHERE topic = $1 AND partition = $2 AND "offset" = $3'


def make_fact(
    saga: str, saga_id: UUID, fact: Event, source: str, step: str = "", *, now: int | None = None
) -> Outgoing:
    """Wrap a fact for the events topic, under an id of its own; `now`, nanoseconds since 1970, is the system's time."""
    envelope = Envelope(
        type=wire_type(saga, type(fact)),
        id=str(new_id()),
        source=source,
        saga_id=str(saga_id),
        time=format_time(SystemClock().now() if now is None else now),
        traceparent=new_traceparent(),
        step=step,
    )
    return Outgoing.of(events_topic(saga), envelope, fact.to_wire())


async def publish(bootstrap: str, record: Outgoing) -> RecordPosition:
    """Publish one record and wait until all replicas have it; raises `CommandError` (exit 5)."""
    producer = Producer(bootstrap, "tradesaga")
    try:
        await producer.start()
    except KafkaUnavailableError as error:
        what = f"Kafka does not answer, so nothing was sent: {error}"
        raise unavailable("kafka-unavailable", what, bootstrap, "start it, or correct TRADESAGA_KAFKA") from error
    try:
        acknowledged = await producer.send(record.topic, record.key.encode(), record.value, record.headers)
        async with asyncio.timeout(_ACK_SECONDS):
            metadata = await acknowledged
    except (KafkaUnavailableError, KafkaError, OSError, TimeoutError) as error:
        what = f"Kafka has not confirmed the record: {error or type(error).__name__}"
        do = "look at the saga before you try again: it may have arrived all the same"
        raise unavailable("kafka-unconfirmed", what, bootstrap, do) from error
    finally:
        await producer.stop()
    return metadata.partition, metadata.offset


async def wait_until_folded(sql: Connection, topic: str, written: RecordPosition, seconds: float) -> str:
    """Wait until the saga log has folded the record; give why it was refused, empty if it was not.

    Raises `CommandError` (exit 5) when the saga log does not come to it in time.
    """
    try:
        async with asyncio.timeout(seconds):
            while True:
                row = await sql.fetchrow(_JUDGED, topic, *written)
                if row is not None:
                    return row["error"] or ""
                await asyncio.sleep(0.1)
    except TimeoutError:
        where = f"{topic}[{written[0]}] offset {written[1]}"
        what = f"the saga log has not come to the record within {seconds:g} s"
        raise unavailable(
            "saga-log-behind", what, where, "look at `tradesaga status`; the record is not lost"
        ) from None
    return row["error"] or ""
