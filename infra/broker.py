# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""What the broker knows of topics: how many partitions they have, and where these end.

Another edge to aiokafka, which is untyped in part.
"""

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from infra.codec import Record
from infra.kafka import READ_COMMITTED, KafkaUnavailableError, Place, to_record
from infra.lenient_records import read_leniently
from infra.topics import missing_topic

_LOOK_MS = 3000
"""Milliseconds that a broker has to show a record that it holds."""


@asynccontextmanager
async def _administration(bootstrap: str) -> AsyncGenerator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, client_id="tradesaga", request_timeout_ms=10_000)
    try:
        await client.start()
        yield client
    except (KafkaError, OSError) as error:
        raise KafkaUnavailableError(f"{bootstrap}: {error or type(error).__name__}") from error
    finally:
        await client.close()


async def count_partitions(bootstrap: str, topics: Collection[str]) -> dict[str, int]:
    """Count the partitions of topics. Raises `CommandError` for one that is missing, `KafkaUnavailableError`."""
    async with _administration(bootstrap) as client:
        found = cast("list[Mapping[str, Any]]", await client.describe_topics(list(topics)))
    counts = {each["topic"]: len(each["partitions"]) for each in found if not each["error_code"]}
    for topic in topics:
        if not counts.get(topic):
            raise missing_topic(bootstrap, topic)
    return counts


async def read_cluster_id(bootstrap: str) -> str:
    """Give the id that a cluster got when it was made. Raises `KafkaUnavailableError`."""
    async with _administration(bootstrap) as client:
        return str((await client.describe_cluster())["cluster_id"])


async def read_ends(bootstrap: str, places: Collection[Place]) -> dict[Place, int]:
    """Return the offset after the last committed record of each partition. Raises `KafkaUnavailableError`."""
    partitions = [TopicPartition(*place) for place in places]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, client_id="tradesaga", request_timeout_ms=10_000, isolation_level=READ_COMMITTED
    )
    try:
        await consumer.start()
        ends = await consumer.end_offsets(partitions)
    except (KafkaError, OSError) as error:
        raise KafkaUnavailableError(f"{bootstrap}: {error or type(error).__name__}") from error
    finally:
        await consumer.stop()
    return {(each.topic, each.partition): ends[each] for each in partitions}


async def has_record(bootstrap: str, offsets: Mapping[Place, int]) -> bool:
    """Return whether any of these partitions can deliver a record at this offset or after it.

    Control records, records of aborted or open transactions, and deleted ones are none. Asks with a connection of its
    own and no group. Raises `KafkaUnavailableError`.
    """
    return await find_record(bootstrap, offsets) is not None


async def find_record(bootstrap: str, offsets: Mapping[Place, int]) -> tuple[Place, int] | None:
    """Return partition and offset of one record that `has_record` is true for. Raises `KafkaUnavailableError`."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, client_id="tradesaga", enable_auto_commit=False, auto_offset_reset="earliest",
        request_timeout_ms=10_000, isolation_level=READ_COMMITTED,
    )  # fmt: skip
    try:
        await consumer.start()
        consumer.assign([TopicPartition(*place) for place in offsets])
        for place, offset in offsets.items():
            consumer.seek(TopicPartition(*place), offset)
        found = await consumer.getmany(timeout_ms=_LOOK_MS, max_records=1) if offsets else {}
    except UnicodeDecodeError as error:
        read_leniently()
        raise KafkaUnavailableError("a header's name is no UTF-8; ask again, it is read with escapes") from error
    except (KafkaError, OSError) as error:
        raise KafkaUnavailableError(f"{bootstrap}: {error or type(error).__name__}") from error
    finally:
        await consumer.stop()
    return next((((p.topic, p.partition), records[0].offset) for p, records in found.items()), None)


async def read_topic(bootstrap: str, topic: str, partitions: int) -> AsyncGenerator[Record]:
    """Read a topic from its first record to the last committed one, partition by partition; joins no group.

    Raises `KafkaUnavailableError`.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, request_timeout_ms=20_000,
        isolation_level=READ_COMMITTED,
    )  # fmt: skip
    try:
        await consumer.start()
        for place in (TopicPartition(topic, number) for number in range(partitions)):
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:
                for record in (await consumer.getmany(place, timeout_ms=1000, max_records=5000)).get(place, ()):
                    if record.offset < end:
                        yield to_record(record)
    except (KafkaError, OSError) as error:
        raise KafkaUnavailableError(f"{topic}: {error or type(error).__name__}") from error
    finally:
        await consumer.stop()
