# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""What the broker knows of topics: how many partitions they have, and where these end.

Another edge to aiokafka, which is untyped in part.
"""

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from aiokafka.errors import KafkaError

from tradesaga.infra.kafka.clients import READ_COMMITTED, KafkaUnavailableError, Place, to_record
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Admin, MappedConsumer, make_admin
from tradesaga.infra.kafka.lenient_records import read_leniently
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.kafka.topics import missing_topic

_LOOK_MS = 3000
"""Milliseconds that a broker has to show a record that it holds."""


@asynccontextmanager
async def _administration(brokers: str) -> AsyncGenerator[Admin]:
    client = make_admin(brokers, 10_000)
    try:
        await client.start()
        yield client
    except (KafkaError, OSError) as error:
        raise KafkaUnavailableError(f"{brokers}: {error or type(error).__name__}") from error
    finally:
        await client.close()


async def count_partitions(brokers: str, topics: Collection[str]) -> dict[str, int]:
    """Count the partitions of topics. Raises `CommandError` for one that is missing, `KafkaUnavailableError`."""
    names = {Cluster.parse(brokers).physical(topic): topic for topic in topics}
    async with _administration(brokers) as client:
        found = cast("list[Mapping[str, Any]]", await client.describe_topics(list(names)))
    counts = {names[each["topic"]]: len(each["partitions"]) for each in found if not each["error_code"]}
    for topic in topics:
        if not counts.get(topic):
            raise missing_topic(brokers, topic)
    return counts


async def read_cluster_id(brokers: str) -> str:
    """Return the id that a cluster got when it was made, and our prefix there. Raises `KafkaUnavailableError`.

    A replay goes on only where this is the same: under another prefix are other records.
    """
    async with _administration(brokers) as client:
        found = str((await client.describe_cluster())["cluster_id"])
    prefix = Cluster.parse(brokers).prefix
    return f"{found}.{prefix}" if prefix else found


async def read_ends(brokers: str, places: Collection[Place]) -> dict[Place, int]:
    """Return the offset after the last committed record of each partition. Raises `KafkaUnavailableError`."""
    consumer = MappedConsumer(brokers, client_id="tradesaga", request_timeout_ms=10_000, isolation_level=READ_COMMITTED)
    try:
        await consumer.start()
        return await consumer.end_offsets(places)
    except (KafkaError, OSError) as error:
        raise KafkaUnavailableError(f"{brokers}: {error or type(error).__name__}") from error
    finally:
        await consumer.stop()


async def has_record(brokers: str, offsets: Mapping[Place, int]) -> bool:
    """Return whether any of these partitions can deliver a record at this offset or after it.

    Control records, records of aborted or open transactions, and deleted ones are none. Asks with a connection of its
    own and no group. Raises `KafkaUnavailableError`.
    """
    return await find_record(brokers, offsets) is not None


async def find_record(brokers: str, offsets: Mapping[Place, int]) -> tuple[Place, int] | None:
    """Return partition and offset of one record that `has_record` is true for. Raises `KafkaUnavailableError`."""
    consumer = MappedConsumer(
        brokers, client_id="tradesaga", enable_auto_commit=False, auto_offset_reset="earliest",
        request_timeout_ms=10_000, isolation_level=READ_COMMITTED,
    )  # fmt: skip
    try:
        await consumer.start()
        consumer.assign(offsets)
        for place, offset in offsets.items():
            consumer.seek(place, offset)
        found = await consumer.getmany(timeout_ms=_LOOK_MS, max_records=1) if offsets else {}
    except UnicodeDecodeError as error:
        read_leniently()
        raise KafkaUnavailableError("a header's name is no UTF-8; ask again, it is read with escapes") from error
    except (KafkaError, OSError) as error:
        raise KafkaUnavailableError(f"{brokers}: {error or type(error).__name__}") from error
    finally:
        await consumer.stop()
    return next(((place, records[0].offset) for place, records in found.items()), None)


async def read_topic(brokers: str, topic: str, partitions: int) -> AsyncGenerator[Record]:
    """Read a topic from its first record to the last committed one, partition by partition; joins no group.

    Raises `KafkaUnavailableError`.
    """
    consumer = MappedConsumer(
        brokers, enable_auto_commit=False, request_timeout_ms=20_000,
        isolation_level=READ_COMMITTED,
    )  # fmt: skip
    try:
        await consumer.start()
        for place in ((topic, number) for number in range(partitions)):
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:
                for record in (await consumer.getmany(place, timeout_ms=1000, max_records=5000)).get(place, ()):
                    if record.offset < end:
                        yield to_record(topic, record)
    except (KafkaError, OSError) as error:
        raise KafkaUnavailableError(f"{consumer.cluster.physical(topic)}: {error or type(error).__name__}") from error
    finally:
        await consumer.stop()
