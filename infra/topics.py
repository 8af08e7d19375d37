# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Topics as the catalogue has them: made where they are missing, refused where they differ."""

from collections.abc import Iterable
from typing import Any, Final, cast

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from infra.errors import CommandError, ExitCode, unavailable
from schemas.topics import SIGNALS, Topic, saga_topics

_KEEPING: Final = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
"""The settings of a topic that loses nothing."""


def all_topics(sagas: Iterable[str]) -> list[Topic]:
    """List the topics that these sagas, and the strategies, need."""
    return [topic for saga in sorted(sagas) for topic in saga_topics(saga)] + [SIGNALS]


async def ensure_topics(bootstrap: str, topics: Iterable[Topic], *, replicas: int = 1) -> list[str]:
    """Make the topics that are missing, and give their names.

    Raises `CommandError`: exit 5 when the broker does not answer, exit 4 when a topic has another number of
    partitions, which would move keys.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=20_000)
    try:
        await admin.start()
        return await _ensure(admin, list(topics), replicas)
    except (KafkaError, OSError) as error:
        raise unavailable(
            "kafka_unavailable", f"Kafka does not answer: {error}", bootstrap, "start it, or correct TRADESAGA_KAFKA"
        ) from error
    finally:
        await admin.close()


async def set_clock(bootstrap: str, topics: Iterable[Topic], clock: str) -> None:
    """Have these topics take the broker's times (`LogAppendTime`) or the writer's (`CreateTime`) from here on.

    What is there keeps the time that it has. Raises `CommandError` (exit 5).
    """
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, each.name, {**each.configuration, "message.timestamp.type": clock})
        for each in topics
    ]
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=20_000)
    try:
        await admin.start()
        for answer in cast("Any", await admin.alter_configs(resources)):
            for code, message, *_ in answer.resources:
                if code:
                    raise for_code(code)(message)
    except (KafkaError, OSError) as error:
        do = "start it, or correct TRADESAGA_KAFKA"
        raise unavailable("kafka_unavailable", f"Kafka does not answer: {error}", bootstrap, do) from error
    finally:
        await admin.close()


async def read_removals(bootstrap: str, topics: Iterable[str]) -> dict[str, str]:
    """Say of those topics from which the broker removes records by which rule. Raises `CommandError` (exit 5)."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=20_000)
    found: dict[str, str] = {}
    try:
        await admin.start()
        for answer in cast("Any", await admin.describe_configs(resources)):
            for _, _, _, topic, entries in answer.resources:
                told = {entry[0]: entry[1] for entry in entries}
                rules = [f"{name}={told[name]}" for name, kept in _KEEPING.items() if told.get(name, kept) != kept]
                if rules:
                    found[topic] = ", ".join(rules)
    except (KafkaError, OSError) as error:
        do = "start it, or correct TRADESAGA_KAFKA"
        raise unavailable("kafka_unavailable", f"Kafka does not answer: {error}", bootstrap, do) from error
    finally:
        await admin.close()
    return found


async def _ensure(admin: AIOKafkaAdminClient, topics: list[Topic], replicas: int) -> list[str]:
    known: dict[str, int] = {
        described["topic"]: len(described["partitions"]) for described in await admin.describe_topics()
    }
    for topic in topics:
        if known.get(topic.name, topic.partitions) != topic.partitions:
            raise CommandError(
                "partitions_differ",
                f"topic {topic.name} has {known[topic.name]} partitions, not {topic.partitions}",
                "Kafka",
                "make a new generation of the topic; partitions of a keyed topic are never changed",
                ExitCode.REFUSED,
            )
    missing = [topic for topic in topics if topic.name not in known]
    if missing:
        wanted = [NewTopic(t.name, t.partitions, replicas, topic_configs=t.configuration) for t in missing]
        answer = cast("Any", await admin.create_topics(wanted))
        for name, code, *_ in answer.topic_errors:
            if code and for_code(code) is not TopicAlreadyExistsError:
                raise for_code(code)(f"topic {name} could not be made")
    return [topic.name for topic in missing]
