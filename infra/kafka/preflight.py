"""Checks topics before a service joins a group: topics that may lose or reorder records are rejected."""

from collections.abc import Collection

from tradesaga.infra.kafka.topics import Durability, check_topics
from tradesaga.infra.settings import Settings
from tradesaga.schemas.topics import find_topic


def durability(settings: Settings) -> Durability:
    """Return the durability that the settings require of topics."""
    return Durability(
        settings.topic_replicas, settings.topic_min_insync_replicas, settings.topic_unclean_leader_election
    )


async def preflight(settings: Settings, topics: Collection[str]) -> dict[str, int]:
    """Check the topics that a service reads and writes, and return the number of partitions of each.

    Raises `CommandError`: exit 4 when a topic differs from the catalogue, exit 5 when one is missing or Kafka is.
    """
    return await check_topics(settings.brokers(), [find_topic(name) for name in topics], durability(settings))
