"""Facts that no record triggers, such as operator actions: made, published, and awaited until they are folded."""

import asyncio
from typing import Final
from uuid import UUID

from aiokafka.errors import KafkaError

from tradesaga.infra.clock import SystemClock, format_time, new_id
from tradesaga.infra.errors import unavailable
from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.kafka.connections import KafkaUnavailableError
from tradesaga.infra.kafka.producer import Producer
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.telemetry.tracing import new_traceparent
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.message import Event, wire_type
from tradesaga.schemas.topics import events_topic

PartitionOffset = tuple[int, int]
"""The partition and offset of a published record."""
_ACK_SECONDS: Final = 20.0
_JUDGED: Final = 'SELECT error FROM saga_event WHERE topic = $1 AND partition = $2 AND "offset" = $3'


def make_fact(
    saga: str, saga_id: UUID, fact: Event, source: str, step: str = "", *, now: int | None = None
) -> Outgoing:
    """Wrap a fact for the events topic under a new id; `now` is nanoseconds since 1970, by default the system's."""
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


async def publish(bootstrap: str, record: Outgoing) -> PartitionOffset:
    """Publish one record and wait until all replicas have it; raises `CommandError` (exit 5)."""
    producer = Producer(bootstrap, "tradesaga")
    try:
        await producer.start()
    except KafkaUnavailableError as error:
        what = f"Kafka is unavailable, nothing was sent: {error}"
        raise unavailable("kafka-unavailable", what, bootstrap, "start it, or correct TRADESAGA_KAFKA") from error
    try:
        acknowledged = await producer.send(record.topic, record.key.encode(), record.value, record.headers)
        async with asyncio.timeout(_ACK_SECONDS):
            metadata = await acknowledged
    except (KafkaUnavailableError, KafkaError, OSError, TimeoutError) as error:
        what = f"Kafka did not confirm the record: {error or type(error).__name__}"
        do = "check the saga before you try again: the record may have been written"
        raise unavailable("kafka-unconfirmed", what, bootstrap, do) from error
    finally:
        await producer.stop()
    return metadata.partition, metadata.offset


async def wait_until_folded(sql: Connection, topic: str, written: PartitionOffset, seconds: float) -> str:
    """Wait until the saga log has folded the record; return why it was rejected, empty if it was not.

    Raises `CommandError` (exit 5) when the saga log has not reached it within `seconds`.
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
        what = f"the saga log has not reached the record within {seconds:g} s"
        raise unavailable(
            "saga-log-behind", what, where, "look at `tradesaga status`; the record is not lost"
        ) from None
