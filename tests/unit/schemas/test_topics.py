"""The catalogue of topics that every saga has."""

from tradesaga.schemas.topics import SIGNALS, saga_topics


def test_facts_and_commands_are_kept_for_ever_in_the_brokers_time() -> None:
    """Replay is the audit, so nothing it needs is ever deleted; the broker's clock is the recorded time."""
    topics = {topic.name: topic for topic in saga_topics("shop")}

    kept = {"shop.events", "shop.commands", "shop.checkpoints", "shop.installation"}
    assert topics.keys() == kept | {"shop.starts", "shop.dead-letters"}
    assert all(topics[name].retention_ms == -1 for name in kept)
    for topic in (*topics.values(), SIGNALS):
        assert topic.configuration["message.timestamp.type"] == "LogAppendTime"
        assert topic.configuration["retention.ms"] == str(topic.retention_ms)
        assert topic.configuration["cleanup.policy"] == "delete"


def test_keyed_topics_have_equal_partition_counts() -> None:
    """A saga's facts and commands must meet in partitions of one number."""
    assert {topic.partitions for topic in saga_topics("shop") if topic.partitions > 1} == {12}
