# pyright: reportUnknownMemberType=false, reportPrivateImportUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Topics that would lose, reorder or restamp records are refused: by `up`, and by each service at its start."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.broker import delete_topics, wait_for_topics
from tests.e2e.far import FarSide
from tests.e2e.sagas import make_kit
from tests.keys import keys_in
from tests.waiting import until
from tradesaga.consumers.runtime.service import serve as serve_participant
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka import topics as topics_module
from tradesaga.infra.kafka.topics import TopicPolicy, check_topics, ensure_topics, set_clock
from tradesaga.infra.postgres.database import open_pool
from tradesaga.infra.settings import Settings
from tradesaga.producers.gateway.service import serve as serve_gateway
from tradesaga.schemas.topics import Topic, saga_topics

pytestmark = pytest.mark.stack

BAD = {
    "cleanup.policy": "compact",
    "retention.ms": "3600000",
    "retention.bytes": "1048576",
    "message.timestamp.type": "CreateTime",
    "max.message.bytes": "2048",
    "compression.type": "gzip",
    "min.insync.replicas": "2",
    "unclean.leader.election.enable": "true",
}


def unique_name(prefix: str) -> str:
    """Name a saga of one test."""
    return f"{prefix}-{uuid4().hex[:8]}"


@contextmanager
def made(kafka: str, topics: Mapping[Topic, Mapping[str, str]]) -> Generator[None]:
    """Create topics with settings of their own, over those of the catalogue."""
    admin = AdminClient({"bootstrap.servers": kafka})
    wanted = [NewTopic(t.name, t.partitions, 1, config={**t.configuration, **own}) for t, own in topics.items()]
    for future in admin.create_topics(wanted).values():
        future.result()
    names = [topic.name for topic in topics]
    wait_for_topics(kafka, names)
    try:
        yield
    finally:
        delete_topics(kafka, names)


async def test_every_deviation_is_named_at_once(kafka: str) -> None:
    """One refusal (exit 4) names topic, setting, found and wanted of each setting that differs."""
    events, commands, *_ = saga_topics(unique_name("deviating"))
    with made(kafka, {events: BAD, replace(commands, partitions=5): {}}):
        for refusing in (
            ensure_topics(kafka, [events, commands]),
            check_topics(kafka, [events, commands], TopicPolicy()),
        ):
            with pytest.raises(CommandError) as caught:
                await refusing
            assert caught.value.exit_code is ExitCode.REFUSED
            for setting, found in BAD.items():
                assert f"topic {events.name} has {setting}={found}, expected " in caught.value.what
            assert f"topic {commands.name} has partitions=5, expected 12" in caught.value.what
            assert caught.value.what.count("expected") == len(BAD) + 1


async def test_too_few_replicas_are_refused(kafka: str) -> None:
    """A topic on one broker is refused where two are asked for, and one where that is enough is accepted."""
    events = saga_topics(unique_name("copies"))[0]
    with made(kafka, {events: {}}):
        assert await check_topics(kafka, [events], TopicPolicy()) == {events.name: 12}
        with pytest.raises(CommandError, match=r"replication factor=1, expected 2 or more.*min.insync.replicas=1"):
            await check_topics(kafka, [events], TopicPolicy(replicas=2, min_insync=2))


async def test_another_number_of_partitions_is_refused_by_the_name_of_its_setting(kafka: str) -> None:
    """By `up` and by a service; a saga that is added later gets the number of the first."""
    names = [unique_name("spread"), unique_name("later")]
    first, later = (saga_topics(name) for name in names)
    policy = TopicPolicy.of(Settings(partitions=3))
    try:
        await ensure_topics(kafka, first, policy)
        assert await ensure_topics(kafka, [*first, *later], policy) == [topic.name for topic in later]
        wanted = {topic.name: 3 if topic.keyed else 1 for topic in (*first, *later)}
        assert await check_topics(kafka, [*first, *later], policy) == wanted
        for refusing in (ensure_topics(kafka, first, TopicPolicy()), check_topics(kafka, first, TopicPolicy())):
            with pytest.raises(CommandError, match="partitions=3, expected 12") as caught:
                await refusing
            assert caught.value.exit_code is ExitCode.REFUSED
            assert "TRADESAGA_PARTITIONS" in caught.value.do
    finally:
        delete_topics(kafka, [topic.name for topic in (*first, *later)])


async def test_harmless_deviations_are_accepted(kafka: str) -> None:
    """What keeps records longer, or takes larger ones where only our services write, is no reason to refuse."""
    events, _, starts, letters, *_ = saga_topics(unique_name("harmless"))
    kept = {"retention.ms": "-1"}
    with made(kafka, {events: {"max.message.bytes": "2097152"}, starts: kept, letters: kept}):
        await check_topics(kafka, [events, starts, letters], TopicPolicy())


async def test_large_records_of_strangers_are_refused(kafka: str) -> None:
    """A front door that lets larger records in than we read is refused."""
    starts = saga_topics(unique_name("wide"))[2]
    wanted = r"max.message.bytes=8388608, expected 1048576"
    with made(kafka, {starts: {"max.message.bytes": "8388608"}}), pytest.raises(CommandError, match=wanted):
        await check_topics(kafka, [starts], TopicPolicy())


async def test_a_missing_topic_is_not_created_by_asking(kafka: str) -> None:
    """Checking names the topic that is missing (exit 5) and leaves it missing."""
    events = saga_topics(unique_name("missing"))[0]
    for _ in range(2):
        with pytest.raises(CommandError, match=f"no topic {events.name}") as caught:
            await check_topics(kafka, [events], TopicPolicy())
        assert caught.value.exit_code is ExitCode.UNAVAILABLE


async def test_settings_that_may_not_be_read_are_told(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that refuses DescribeConfigs to this client leaves a warning; partitions are compared all the same."""
    events = saga_topics(unique_name("unread"))[0]

    async def refuse(*_: object) -> dict[str, list[object]]:
        return {}

    monkeypatch.setattr(topics_module, "_read_settings", refuse)
    with made(kafka, {events: BAD}), capture_logs() as logs:
        assert await check_topics(kafka, [events], TopicPolicy()) == {events.name: 12}
        with pytest.raises(CommandError, match="partitions=12, expected 6"):
            await check_topics(kafka, [replace(events, partitions=6)], TopicPolicy())
    assert [(each["event"], each["topics"]) for each in logs] == [("topic settings not checked", [events.name])]


async def test_a_changed_clock_keeps_the_other_settings(kafka: str) -> None:
    """Recovery sets the topics' clock and back; what a topic has besides stays as it was."""
    events = saga_topics(unique_name("clock"))[0]
    with made(kafka, {events: {"max.message.bytes": "2097152"}}):
        await set_clock(kafka, [events], "CreateTime")
        await until(partial(differs, kafka, events, "message.timestamp.type=CreateTime"))
        await set_clock(kafka, [events], "LogAppendTime")
        await until(partial(differs, kafka, events, ""))
        assert await differs(kafka, replace(events, public=True), "max.message.bytes=2097152")


async def differs(kafka: str, topic: Topic, told: str) -> bool:
    """Return whether the topic is refused with these words alone; nothing means that it is accepted."""
    try:
        await check_topics(kafka, [topic], TopicPolicy())
    except CommandError as error:
        return error.what.startswith(f"topic {topic.name} has {told}, expected") and ";" not in error.what
    return not told


async def test_a_service_refuses_before_it_joins(kafka: str, database_url: str, tmp_path: Path) -> None:
    """A participant and the gateway end with the refusal (exit 4); no group is joined, and no port listens."""
    settings = Settings(kafka=kafka, database_url=SecretStr(database_url), request_keys=keys_in(tmp_path))
    name = unique_name("refused")
    topics: dict[Topic, Mapping[str, str]] = {topic: {} for topic in saga_topics(name)}
    topics[saga_topics(name)[0]] = {"message.timestamp.type": "CreateTime"}
    with made(kafka, topics):
        async with await open_pool(database_url, max_size=1) as pool:
            kit = make_kit(name, FarSide(pool))
        for service in (serve_participant(kit.desk, settings), serve_gateway(settings, kit.saga)):
            with pytest.raises(CommandError, match=r"message.timestamp.type=CreateTime") as caught:
                await service
            assert caught.value.exit_code is ExitCode.REFUSED
    admin = AdminClient({"bootstrap.servers": kafka})
    assert kit.desk.group not in [each.group_id for each in admin.list_consumer_groups().result().valid]
