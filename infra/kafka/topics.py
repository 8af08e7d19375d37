"""Topics on the broker: creation, comparison with the catalogue, and the settings that remove records."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self, TypeVar, cast

import structlog
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from tradesaga.infra.errors import CommandError, ExitCode, unavailable
from tradesaga.infra.kafka.connections import Admin, KafkaUnavailableError, open_admin
from tradesaga.infra.kafka.names import Cluster, physical_name
from tradesaga.infra.settings import Settings
from tradesaga.schemas.topics import SIGNALS, Topic, find_topic, saga_topics

_KEEPING: Final = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
"""The settings of a topic that never removes records."""
_OF_THE_TOPIC: Final = 1
"""The source of a setting of the topic itself, as DescribeConfigs numbers it."""
_READS: Final = 25
_READ_PAUSE: Final = 0.2
"""Attempts to read settings, and seconds between them: a broker may learn of a new topic late."""
_USUAL_REPLICAS: Final = 3

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TopicPolicy:
    """What the settings require of topics: brokers that keep and acknowledge a record, and the number of partitions.

    0 means by the number of brokers, and for the partitions as in the catalogue.
    """

    replicas: int = 0
    min_insync: int = 0
    unclean_election: bool = False
    partitions: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the policy that the settings describe."""
        return cls(
            settings.topic_replicas,
            settings.topic_min_insync_replicas,
            settings.topic_unclean_leader_election,
            settings.partitions,
        )

    def settle(self, brokers: int) -> "TopicPolicy":
        """Return the numbers for a cluster of this size: 1 of 1 on one or two brokers, 2 of 3 on three or more."""
        replicas = self.replicas or min(_USUAL_REPLICAS, brokers)
        min_insync = self.min_insync or (2 if replicas > 2 else 1)  # noqa: PLR2004
        return replace(self, replicas=replicas, min_insync=min_insync)

    def partitions_of(self, topic: Topic) -> int:
        """Return the number of partitions that a topic of the catalogue must have."""
        return (topic.keyed and self.partitions) or topic.partitions

    @property
    def configuration(self) -> dict[str, str]:
        """The resulting settings of a topic."""
        return {
            "min.insync.replicas": str(self.min_insync),
            "unclean.leader.election.enable": str(self.unclean_election).lower(),
        }


@dataclass(frozen=True, slots=True)
class Described:
    """A topic as the broker has it; `settings` is None where this client may not read them."""

    partitions: int
    replicas: int
    settings: Mapping[str, str] | None


class Deviation(NamedTuple):
    """A setting of a topic that endangers records; `wanted` is what is accepted."""

    topic: str
    setting: str
    found: str
    wanted: str

    def __str__(self) -> str:
        """Return one sentence."""
        return f"topic {self.topic} has {self.setting}={self.found}, expected {self.wanted}"


class _Bound(NamedTuple):
    """Accepted values of a setting: `value`, with `above` every larger one, with `endless` also -1 (no limit)."""

    value: str
    above: bool = False
    endless: bool = False

    def accepts(self, found: str) -> bool:
        if found == self.value or (self.endless and found == "-1"):
            return True
        return self.above and int(found) > int(self.value)

    def __str__(self) -> str:
        return f"{self.value} or more" if self.above else self.value


def find_deviations(topic: Topic, policy: TopicPolicy, found: Described) -> list[Deviation]:
    """Compare a topic with the catalogue; settings that keep records longer or on more brokers are accepted.

    Settings that could not be read are not compared. docs/operations.md has the reason for each.
    """
    counted = {"partitions": str(found.partitions), "replication factor": str(found.replicas)}
    values = {**counted, **(found.settings or {})}
    deviations = [
        Deviation(topic.name, setting, values[setting], str(bound))
        for setting, bound in _bounds(topic, policy).items()
        if setting in values and not bound.accepts(values[setting])
    ]
    insync = "min.insync.replicas"
    if int(values.get(insync, 0)) > found.replicas:  # nothing could be written
        deviations.append(Deviation(topic.name, insync, values[insync], f"{found.replicas} or less"))
    return deviations


def _bounds(topic: Topic, policy: TopicPolicy) -> dict[str, _Bound]:
    """Return what is accepted of each setting."""
    bounds = {setting: _Bound(value) for setting, value in topic.configuration.items()}
    bounds["partitions"] = _Bound(str(topic.partitions))
    bounds["replication factor"] = _Bound(str(policy.replicas), above=True)
    bounds["retention.ms"] = _Bound(str(topic.retention_ms), above=topic.retention_ms >= 0, endless=True)
    if not topic.public:
        bounds["max.message.bytes"] = bounds["max.message.bytes"]._replace(above=True)
    bounds["min.insync.replicas"] = _Bound(str(policy.min_insync), above=True)
    if not policy.unclean_election:
        bounds["unclean.leader.election.enable"] = _Bound("false")
    return bounds


def topic_settings(topic: Topic, policy: TopicPolicy) -> dict[str, str]:
    """Return the settings with which a topic is created."""
    return {**topic.configuration, **policy.configuration}


def physical_topics(cluster: Cluster, topics: Iterable[Topic], policy: TopicPolicy) -> list[Topic]:
    """Return the topics under their physical names, with the number of partitions that the policy requires."""
    return [
        replace(topic, name=cluster.physical(topic.name), partitions=policy.partitions_of(topic)) for topic in topics
    ]


def all_topics(sagas: Iterable[str]) -> list[Topic]:
    """Return the topics of these sagas and of the strategies."""
    return [topic for saga in sorted(sagas) for topic in saga_topics(saga)] + [SIGNALS]


async def ensure_topics(
    brokers: str, topics: Iterable[Topic], policy: TopicPolicy = TopicPolicy()
) -> list[str]:  # fmt: skip
    """Create missing topics and return their physical names.

    Raises `CommandError`: exit 5 when the broker does not answer, exit 4 when a topic differs from the catalogue.
    """
    async with _open_admin(brokers) as admin:
        wanted, settled = physical_topics(Cluster.parse(brokers), topics, policy), await _settle(admin, policy)
        found = await _describe(admin, wanted)
        _reject_deviations(brokers, wanted, settled, found)
        missing = [topic for topic in wanted if topic.name not in found]
        if missing:
            await _create(admin, missing, settled)
        return [topic.name for topic in missing]


async def check_topics(brokers: str, topics: Iterable[Topic], policy: TopicPolicy) -> dict[str, int]:
    """Check that topics are as the catalogue has them, and return the number of partitions of each.

    Settings that this client may not read are not compared, and a warning is logged. Raises `CommandError`: exit 5 when
    a topic is missing or the broker does not answer, exit 4 when a topic differs.
    """
    cluster = Cluster.parse(brokers)
    wanted = physical_topics(cluster, topics, policy)
    async with _open_admin(brokers) as admin:
        settled = await _settle(admin, policy)
        # A missing topic may have just been created.
        found = await _ask_until(lambda: _describe(admin, wanted), lambda found: len(found) == len(wanted))
    for topic in wanted:
        if topic.name not in found:
            raise missing_topic(brokers, cluster.logical(topic.name))
    _reject_deviations(brokers, wanted, settled, found)
    if unread := [topic.name for topic in wanted if found[topic.name].settings is None]:
        why = "the broker denies DescribeConfigs to this client; grant it, or compare with `tradesaga schema topics`"
        structlog.get_logger("topics").warning("topic settings not checked", topics=unread, why=why)
    return {cluster.logical(topic.name): found[topic.name].partitions for topic in wanted}


def missing_topic(brokers: str, topic: str) -> CommandError:
    """Return the error for a topic that does not exist or is not visible to this client."""
    do = "create it with `tradesaga up`, or with your platform's tool from `tradesaga schema topics`"
    what = f"Kafka has no topic {physical_name(brokers, topic)}"
    return CommandError("topic-missing", what, brokers, do, ExitCode.UNAVAILABLE)


async def set_clock(brokers: str, topics: Iterable[Topic], clock: str) -> None:
    """Set whether new records get the broker's time (`LogAppendTime`) or the writer's (`CreateTime`).

    Existing records keep their times. Raises `CommandError` (exit 5).
    """
    cluster = Cluster.parse(brokers)
    names = [cluster.physical(topic.name) for topic in topics]
    async with _open_admin(brokers) as admin:
        found, resources = await _read_settings(admin, names), list[ConfigResource]()
        for topic in names:
            # AlterConfigs replaces all settings of a topic, so its own ones are passed again.
            own = {entry[0]: entry[1] for entry in found[topic] if entry[3] == _OF_THE_TOPIC}
            settings = {**own, "message.timestamp.type": clock}
            resources.append(ConfigResource(ConfigResourceType.TOPIC, topic, settings))
        for answer in cast("Any", await admin.alter_configs(resources)):
            for code, message, *_ in answer.resources:
                if code:
                    raise for_code(code)(message)


async def read_removals(brokers: str, topics: Iterable[str]) -> dict[str, str]:
    """Return the removal settings of topics from which the broker removes records. Raises `CommandError` (exit 5)."""
    cluster, found = Cluster.parse(brokers), dict[str, str]()
    async with _open_admin(brokers) as admin:
        for topic, entries in (await _read_settings(admin, [cluster.physical(each) for each in topics])).items():
            own = {entry[0]: entry[1] for entry in entries}
            rules = [f"{name}={own[name]}" for name, kept in _KEEPING.items() if own.get(name, kept) != kept]
            if rules:
                found[cluster.logical(topic)] = ", ".join(rules)
    return found


@asynccontextmanager
async def _open_admin(brokers: str) -> AsyncGenerator[Admin]:
    """Connect an administration client; its errors are raised as `CommandError` (exit 5)."""
    try:
        async with open_admin(brokers, 20_000) as admin:
            yield admin
    except KafkaUnavailableError as error:
        what, do = f"Kafka is unavailable: {error}", "start it, or correct TRADESAGA_KAFKA"
        raise unavailable("kafka-unavailable", what, brokers, do) from error


async def _settle(admin: Admin, policy: TopicPolicy) -> TopicPolicy:
    return policy.settle(len((await admin.describe_cluster())["brokers"]))


async def _describe(admin: Admin, topics: Sequence[Topic]) -> dict[str, Described]:
    """Describe the existing ones of these topics. Lists all topics, since asking by name may create one."""
    names = {topic.name for topic in topics}
    listed = [each for each in await admin.describe_topics() if each["topic"] in names and not each["error_code"]]
    settings = await _read_settings(admin, [each["topic"] for each in listed])
    return {
        each["topic"]: Described(
            partitions=len(each["partitions"]),
            replicas=min((len(partition["replicas"]) for partition in each["partitions"]), default=0),
            settings={entry[0]: entry[1] for entry in entries} if (entries := settings.get(each["topic"])) else None,
        )
        for each in listed
    }


async def _read_settings(admin: Admin, topics: Sequence[str]) -> dict[str, list[Any]]:
    """Return the settings of topics from DescribeConfigs; topics that this client may not read are left out."""
    if not topics:
        return {}
    # The broker may not know a new topic yet.
    answers = await _ask_until(
        lambda: _ask_settings(admin, topics),
        lambda answers: all(for_code(code) is not UnknownTopicOrPartitionError for code, *_ in answers),
    )
    for code, message, *_ in answers:
        if code and for_code(code) is not TopicAuthorizationFailedError:
            raise for_code(code)(message)
    return {topic: entries for code, _, _, topic, entries in answers if not code}


async def _ask_until(ask: Callable[[], Awaitable[T]], complete: Callable[[T], bool]) -> T:
    """Ask the broker again until its answer is complete; return the last answer in any case."""
    for _ in range(_READS):
        if complete(found := await ask()):
            return found
        await asyncio.sleep(_READ_PAUSE)
    return await ask()


async def _ask_settings(admin: Admin, topics: Sequence[str]) -> list[Any]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    return [each for answer in cast("Any", await admin.describe_configs(resources)) for each in answer.resources]


def _reject_deviations(
    brokers: str, topics: Iterable[Topic], policy: TopicPolicy, found: Mapping[str, Described]
) -> None:  # fmt: skip
    """Raise `CommandError` (exit 4) that lists every difference from the catalogue."""
    deviations = [
        str(each)
        for topic in topics
        if topic.name in found
        for each in find_deviations(topic, policy, found[topic.name])
    ]
    if deviations:
        do = (
            "alter the topics as docs/operations.md says; a number of partitions is never changed: set "
            "TRADESAGA_PARTITIONS to that of the topics, or make new topics"
        )
        raise CommandError("topics-differ", "; ".join(deviations), brokers, do, ExitCode.REFUSED)


async def _create(admin: Admin, topics: Sequence[Topic], policy: TopicPolicy) -> None:
    wanted = [NewTopic(t.name, t.partitions, policy.replicas, topic_configs=topic_settings(t, policy)) for t in topics]
    answer = cast("Any", await admin.create_topics(wanted))
    for name, code, *_ in answer.topic_errors:
        if code and for_code(code) is not TopicAlreadyExistsError:
            raise for_code(code)(f"topic {name} could not be created")


async def preflight(settings: Settings, topics: Collection[str]) -> dict[str, int]:
    """Check the topics that a service reads and writes, and return the number of partitions of each.

    Raises `CommandError`: exit 4 when a topic differs from the catalogue, exit 5 when one is missing or Kafka is.
    """
    return await check_topics(settings.brokers(), [find_topic(name) for name in topics], TopicPolicy.of(settings))
