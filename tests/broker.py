# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateImportUsage=false, reportUnknownArgumentType=false
"""Kafka seen from outside: confluent-kafka, a client that shares no line with ours."""

import time
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from uuid import uuid4

from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One record as this client read it."""

    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: dict[str, bytes]


@contextmanager
def temporary_topic(kafka: str, prefix: str, partitions: int = 1) -> Generator[str]:
    """Give a topic that is deleted afterwards."""
    name = f"{prefix}-{uuid4().hex[:8]}"
    with temporary_topics(kafka, [name], partitions):
        yield name


@contextmanager
def temporary_topics(
    kafka: str,
    names: list[str],
    partitions: int,
    replicas: int = 1,
    settings: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> Generator[None]:
    """Make topics, each with its settings by its name, and delete them afterwards."""
    admin = AdminClient({"bootstrap.servers": kafka})
    wanted = [NewTopic(name, partitions, replicas, config=dict(settings.get(name, {}))) for name in names]
    for made in admin.create_topics(wanted).values():
        made.result()
    try:
        yield
    finally:
        for gone in admin.delete_topics(names).values():
            gone.result()


def forget_saga(kafka: str, saga: str) -> None:
    """Delete a saga's topics and groups: what another run has left belongs to a database that is gone."""
    admin = AdminClient({"bootstrap.servers": kafka})
    groups = [each.group_id for each in admin.list_consumer_groups().result().valid]
    own = [group for group in groups if group.startswith(f"{saga}-")]
    topics = [topic for topic in admin.list_topics(timeout=_PATIENCE).topics if topic.startswith(f"{saga}.")]
    for gone in (admin.delete_consumer_groups(own) if own else {}).values():
        gone.result()
    if topics:
        delete_topics(kafka, topics)


def wait_for_topics(kafka: str, topics: Collection[str]) -> None:
    """Wait until the broker tells of new topics, partitions included: a member that is not told is assigned nothing."""
    admin = AdminClient({"bootstrap.servers": kafka})
    ends = time.monotonic() + _PATIENCE
    while True:
        known = admin.list_topics(timeout=_PATIENCE).topics
        if all(topic in known and known[topic].partitions for topic in topics):
            return
        assert time.monotonic() < ends, f"{set(topics) - known.keys()} are not there"
        time.sleep(0.05)


def delete_topics(kafka: str, topics: Sequence[str]) -> None:
    """Delete topics, and wait until nobody is told of them any more."""
    admin = AdminClient({"bootstrap.servers": kafka})
    for gone in admin.delete_topics(list(topics)).values():
        gone.result()
    ends = time.monotonic() + _PATIENCE
    while any(topic in admin.list_topics(timeout=_PATIENCE).topics for topic in topics):
        assert time.monotonic() < ends, f"{topics} are not gone"
        time.sleep(0.1)


def read_topic(kafka: str, topic: str, count: int, partitions: int = 1) -> list[Seen]:
    """Read a topic from its beginning: `count` records, and whatever else has arrived by then."""
    settings = {"bootstrap.servers": kafka, "group.id": uuid4().hex, "auto.offset.reset": "earliest"}
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found: list[Seen] = []
    try:
        while len(found) < count:
            message = consumer.poll(_PATIENCE)
            assert message is not None, f"{topic} holds {len(found)} records, {count} are wanted"
            found.append(_seen(message))
        while (message := consumer.poll(0.3)) is not None:
            found.append(_seen(message))
    finally:
        consumer.close()
    return found


def _seen(message: Message) -> Seen:
    assert message.error() is None, message.error()
    headers: dict[str, bytes] = {}
    for name, value in message.headers() or []:
        headers[name] = value if isinstance(value, bytes) else str(value or "").encode()
    key, value = message.key(), message.value()
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    return Seen(message.partition() or 0, message.offset() or 0, key, value, headers)
