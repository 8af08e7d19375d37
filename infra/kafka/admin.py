# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""One-off questions to the broker: partition counts, ends, whether a record can be delivered.

aiokafka is untyped in part.
"""

from collections.abc import AsyncGenerator, Collection, Mapping
from typing import Any, Final, cast

from tradesaga.infra.kafka.codec import Record, to_record
from tradesaga.infra.kafka.connections import Place, open_admin, open_consumer
from tradesaga.infra.kafka.errors import KafkaUnavailableError
from tradesaga.infra.kafka.lenient_records import read_leniently
from tradesaga.infra.kafka.names import Cluster, physical_name
from tradesaga.infra.kafka.topics import missing_topic

_REQUEST_MS: Final = 10_000
_RECORD_MS: Final = 3000
"""Milliseconds that a broker has to return a record that it holds."""


async def count_partitions(brokers: str, topics: Collection[str]) -> dict[str, int]:
    """Return the number of partitions of each topic.

    Raises `CommandError` for a missing topic, `KafkaUnavailableError`.
    """
    names = {Cluster.parse(brokers).physical(topic): topic for topic in topics}
    async with open_admin(brokers, _REQUEST_MS, where=brokers) as client:
        found = cast("list[Mapping[str, Any]]", await client.describe_topics(list(names)))
    counts = {names[each["topic"]]: len(each["partitions"]) for each in found if not each["error_code"]}
    for topic in topics:
        if not counts.get(topic):
            raise missing_topic(brokers, topic)
    return counts


async def read_cluster_id(brokers: str) -> str:
    """Return the cluster's id together with the topic prefix. Raises `KafkaUnavailableError`.

    A replay is resumed only where this is unchanged: another prefix means other records.
    """
    async with open_admin(brokers, _REQUEST_MS, where=brokers) as client:
        found = str((await client.describe_cluster())["cluster_id"])
    prefix = Cluster.parse(brokers).prefix
    return f"{found}.{prefix}" if prefix else found


async def read_ends(brokers: str, places: Collection[Place]) -> dict[Place, int]:
    """Return the offset after the last committed record of each partition. Raises `KafkaUnavailableError`."""
    async with open_consumer(brokers, request_timeout_ms=_REQUEST_MS) as consumer:
        return await consumer.end_offsets(places)


async def has_record(brokers: str, offsets: Mapping[Place, int]) -> bool:
    """Return whether any of these partitions can deliver a record at its offset or after it.

    Control records, records of aborted or open transactions and deleted records do not count. Uses a connection of its
    own and no group. Raises `KafkaUnavailableError`.
    """
    return await find_record(brokers, offsets) is not None


async def find_record(brokers: str, offsets: Mapping[Place, int]) -> tuple[Place, int] | None:
    """Return the partition and offset of one record for which `has_record` is true.

    Raises `KafkaUnavailableError`.
    """
    async with open_consumer(brokers, auto_offset_reset="earliest", request_timeout_ms=_REQUEST_MS) as consumer:
        consumer.assign(offsets)
        for place, offset in offsets.items():
            consumer.seek(place, offset)
        try:
            found = await consumer.getmany(timeout_ms=_RECORD_MS, max_records=1) if offsets else {}
        except UnicodeDecodeError as error:
            read_leniently()
            raise KafkaUnavailableError("a header's name is not UTF-8; retry, it is then read with escapes") from error
    return next(((place, records[0].offset) for place, records in found.items()), None)


async def read_topic(brokers: str, topic: str, partitions: int) -> AsyncGenerator[Record]:
    """Yield the records of a topic up to the last committed one, partition by partition, without a group.

    Raises `KafkaUnavailableError`.
    """
    async with open_consumer(brokers, where=physical_name(brokers, topic), request_timeout_ms=20_000) as consumer:
        for place in ((topic, number) for number in range(partitions)):
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:
                for record in (await consumer.getmany(place, timeout_ms=1000, max_records=5000)).get(place, ()):
                    if record.offset < end:
                        yield to_record(topic, record)
