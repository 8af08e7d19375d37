"""The topics of a saga: contents, writers and retention."""

from dataclasses import dataclass
from typing import Final

DAY_MS: Final = 24 * 60 * 60 * 1000
PARTITIONS: Final = 12
"""The default of the topics that are keyed by saga. Divisible among 2, 3, 4, 6 and 12 consumers; never changed on an
existing topic, since keys would move.
"""
MOST_PARTITIONS: Final = 120
"""A fetch answer names every partition, and a worker locks a lane for each."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic; a `retention_ms` of -1 keeps records for ever, anybody may write to `public` topics."""

    name: str
    carries: str
    writers: str
    retention_ms: int
    partitions: int = PARTITIONS
    public: bool = False

    @property
    def keyed(self) -> bool:
        """Whether records are spread by key; a topic with one partition in the catalogue always has one."""
        return self.partitions > 1

    @property
    def configuration(self) -> dict[str, str]:
        """Return the topic's settings, without those that depend on the cluster; timestamps are the broker's."""
        return {
            "cleanup.policy": "delete",
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": str(self.retention_ms),
            "retention.bytes": "-1",
            "max.message.bytes": str(1024 * 1024),
            "compression.type": "uncompressed",  # the broker decompresses, within the limit above
        }


def events_topic(saga: str) -> str:
    """Return the name of the topic of `saga`'s events."""
    return f"{saga}.events"


def commands_topic(saga: str) -> str:
    """Return the name of the topic of the saga log's commands."""
    return f"{saga}.commands"


def starts_topic(saga: str) -> str:
    """Return the name of the topic of requests to start `saga`."""
    return f"{saga}.starts"


def dead_letters_topic(saga: str) -> str:
    """Return the name of the topic of records that could not be processed."""
    return f"{saga}.dead-letters"


def checkpoints_topic(saga: str) -> str:
    """Return the name of the topic of the audit log's signed checkpoints."""
    return f"{saga}.checkpoints"


def installation_topic(saga: str) -> str:
    """Return the name of the topic whose first record has the installation id of `saga`'s topics."""
    return f"{saga}.installation"


def saga_topics(saga: str) -> tuple[Topic, ...]:
    """Return the topics of a saga; events and commands are kept for ever, since audit and recovery need all of them."""
    return (
        Topic(events_topic(saga), "every fact of every saga", "participants, intake, saga log, venue feed, desk", -1),
        Topic(commands_topic(saga), "bars, compensations and retries", "saga log", -1),
        Topic(starts_topic(saga), "requests to start a saga", "anybody", 30 * DAY_MS, public=True),
        Topic(
            dead_letters_topic(saga), "records that could not be processed, byte for byte", "all services", 365 * DAY_MS
        ),
        Topic(checkpoints_topic(saga), "signed checkpoints of the audit log", "audit sealer", -1, partitions=1),
        Topic(installation_topic(saga), "the installation id, in its first record", "all services", -1, partitions=1),
    )


SIGNALS: Final = Topic("trade.signals", "strategy signals", "strategies", 30 * DAY_MS, public=True)


def find_topic(name: str) -> Topic:
    """Return the topic with this name; raises `KeyError` if there is none."""
    saga, _, _ = name.rpartition(".")
    return {each.name: each for each in (*saga_topics(saga), SIGNALS)}[name]
