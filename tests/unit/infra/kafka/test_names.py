"""Names on a shared cluster: ours are found again, and those of others never taken for ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradesaga.infra.errors import CommandError
from tradesaga.infra.kafka.names import Cluster, is_prefix, physical_name
from tradesaga.infra.kafka.topics import TopicPolicy, all_topics, physical_topics
from tradesaga.infra.settings import Settings, load_settings

PREFIXES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
SAGAS = st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True)
KINDS = st.sampled_from([".events", ".commands", ".starts", ".installation", "-log", "-cash"])
NAMES = st.builds("{}{}".format, SAGAS, KINDS)
BOOTSTRAP = "one:9092,two:9092"


@given(PREFIXES | st.just(""), NAMES)
def test_names_and_addresses_come_back(prefix: str, name: str) -> None:
    """With every prefix, and with none, where the cluster has our own names."""
    cluster = Cluster.parse(str(Cluster(BOOTSTRAP, prefix)))
    assert cluster == Cluster(BOOTSTRAP, prefix)
    assert cluster.owns(cluster.physical(name))
    assert cluster.logical(cluster.physical(name)) == name
    assert cluster.physical(name) == (f"{prefix}.{name}" if prefix else name)


@given(PREFIXES, PREFIXES | st.just(""), NAMES, NAMES)
def test_no_two_installations_share_a_name(one: str, other: str, name: str, foreign: str) -> None:
    """What another prefix, or none, makes of any saga's name is not ours, and not refused in silence."""
    if one == other:
        return
    assert physical_name(str(Cluster(BOOTSTRAP, one)), name) != physical_name(str(Cluster(BOOTSTRAP, other)), foreign)
    if other:
        theirs = Cluster(BOOTSTRAP, other).physical(foreign)
        assert not Cluster(BOOTSTRAP, one).owns(theirs)
        with pytest.raises(ValueError, match="does not begin with"):
            Cluster(BOOTSTRAP, one).logical(theirs)


@pytest.mark.parametrize("wrong", ["", "a.b", "a_b", "-a", "a-", "A", "a b", "a/b", "a\n", "a" * 64])
def test_what_is_no_prefix(wrong: str) -> None:
    """A dot would let one prefix begin like another; Kubernetes has no underscores in names."""
    assert not is_prefix(wrong)
    with pytest.raises(ValueError, match="not a valid topic prefix"):
        Cluster.parse(f"{BOOTSTRAP}/{wrong}")


def test_the_setting_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error names the variable; without it the address is the servers alone."""
    monkeypatch.setenv("TRADESAGA_TOPIC_PREFIX", "desk.7")
    with pytest.raises(CommandError, match="TRADESAGA_TOPIC_PREFIX is not valid"):
        load_settings()
    assert Settings(kafka="a:1", topic_prefix="desk7").brokers() == "a:1/desk7"
    assert Settings(kafka="a:1", topic_prefix="").brokers() == "a:1"


def test_topics_are_listed_as_the_cluster_has_them() -> None:
    """All of them, signals included."""
    found = physical_topics(Cluster("", "desk7"), all_topics(["trade"]), TopicPolicy())
    assert [topic.name for topic in found] == [f"desk7.{topic.name}" for topic in all_topics(["trade"])]
    assert {topic.partitions for topic in found} == {1, 12}


def test_keyed_topics_of_every_saga_get_the_partitions_of_the_setting() -> None:
    """Checkpoints and the installation's topic keep their one partition."""
    topics = all_topics(["shop", "trade"])
    for number in (1, 3, 48):
        found = physical_topics(Cluster(""), topics, TopicPolicy(partitions=number))
        assert [topic.partitions for topic in found] == [number if topic.keyed else 1 for topic in topics]
