"""The catalogue of topics: what each carries, who writes it, how long it is kept."""

from dataclasses import dataclass
from typing import Final

DAY_MS: Final = 24 * 60 * 60 * 1000
PARTITIONS: Final = 12
"""Divides among 2, 3, 4, 6 and 12 consumers; never changed on a topic that exists, since keys would move."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic; `retention_ms` of -1 keeps records for ever, `public` topics are written by strangers."""

    name: str
    carries: str
    writers: str
    retention_ms: int
    partitions: int = PARTITIONS
    public: bool = False

    @property
    def configuration(self) -> dict[str, str]:
        """Return the topic's settings that do not depend on the cluster; the broker's time is the recorded time."""
        return {
            "cleanup.policy": "delete",
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": str(self.retention_ms),
            "retention.bytes": "-1",
            "max.message.bytes": str(1024 * 1024),
            "compression.type": "uncompressed",  # the broker unpacks what strangers pack, within the limit above
        }


def events_topic(saga: str) -> str:
    """Name the topic of all facts of `saga`."""
    return f"{saga}.events"


def commands_topic(saga: str) -> str:
    """Name the topic of the saga log's commands."""
    return f"{saga}.commands"


def starts_topic(saga: str) -> str:
    """Name the front door of `saga`."""
    return f"{saga}.starts"


def dead_letters_topic(saga: str) -> str:
    """Name the topic of records that could not be read."""
    return f"{saga}.dead-letters"


def checkpoints_topic(saga: str) -> str:
    """Name the topic of the audit log's signed checkpoints."""
    return f"{saga}.checkpoints"


def installation_topic(saga: str) -> str:
    """Name the topic whose first record says to which installation the topics of `saga` belong."""
    return f"{saga}.installation"


def saga_topics(saga: str) -> tuple[Topic, ...]:
    """List the topics every saga has; the audit trail needs events and commands whole, so these are kept for ever."""
    return (
        Topic(events_topic(saga), "every fact of every saga", "participants, intake, saga log, venue feed, desk", -1),
        Topic(commands_topic(saga), "bars, compensations and retries", "saga log", -1),
        Topic(starts_topic(saga), "requests to start a saga", "anybody", 30 * DAY_MS, public=True),
        Topic(dead_letters_topic(saga), "records that could not be read, byte for byte", "all services", 365 * DAY_MS),
        Topic(checkpoints_topic(saga), "signed heads of the audit log", "audit sealer", -1, partitions=1),
        Topic(installation_topic(saga), "whose the topics are, by its first record", "all services", -1, partitions=1),
    )


SIGNALS: Final = Topic("trade.signals", "strategy signals", "strategies", 30 * DAY_MS, public=True)


def find_topic(name: str) -> Topic:
    """Return the catalogue's entry of a topic; raises `KeyError` for a name that is not in it."""
    saga, _, _ = name.rpartition(".")
    return {each.name: each for each in (*saga_topics(saga), SIGNALS)}[name]
