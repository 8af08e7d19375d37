"""`tradesaga schema topics`: the topics of an installation and their settings, for creating them."""

import json
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Column, Table

from tradesaga.infra.cli.console import App, AsJson
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.kafka.topics import TopicPolicy, all_topics, physical_topics, topic_settings
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.settings import load_settings
from tradesaga.schemas.topics import Topic

STRIMZI: Final = "kafka.strimzi.io/v1beta2"


def topics(
    *,
    brokers: Annotated[int, typer.Option(min=1, help="Brokers of the cluster; replication follows from it.")] = 3,
    strimzi: Annotated[str, typer.Option(metavar="CLUSTER", help="Print KafkaTopic resources for Strimzi.")] = "",
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """List the topics with the settings that services require; Kafka is not contacted.

    Example: `tradesaga schema topics --strimzi my-cluster | kubectl apply -f -`.
    """
    if as_json and strimzi:
        do = "choose one of them"
        raise CommandError("usage", "--json and --strimzi exclude each other", "schema topics", do, ExitCode.USAGE)
    settings = load_settings()
    policy, cluster = TopicPolicy.of(settings).settle(brokers), Cluster("", settings.topic_prefix)
    found = [
        (topic, policy.replicas, topic_settings(topic, policy))
        for topic in physical_topics(cluster, all_topics(registered_sagas((*settings.app, *(app or ())))), policy)
    ]
    if as_json:
        typer.echo(json.dumps([_described(*each) for each in found], indent=2))
    elif strimzi:
        typer.echo("".join(_resource(strimzi, *each) for each in found), nl=False)
    else:
        _print(found)


def _described(topic: Topic, replicas: int, settings: dict[str, str]) -> dict[str, object]:
    return {
        "name": topic.name,
        "carries": topic.carries,
        "written_by": topic.writers,
        "partitions": topic.partitions,
        "replicas": replicas,
        "settings": settings,
    }


def _resource(cluster: str, topic: Topic, replicas: int, settings: dict[str, str]) -> str:
    """Return a KafkaTopic resource; its JSON values are valid YAML."""
    resource = {
        "apiVersion": STRIMZI,
        "kind": "KafkaTopic",
        "metadata": {"name": topic.name, "labels": {"strimzi.io/cluster": cluster}},
        "spec": {"topicName": topic.name, "partitions": topic.partitions, "replicas": replicas, "config": settings},
    }
    return "---\n" + "".join(f"{name}: {json.dumps(value)}\n" for name, value in resource.items())


def _print(found: Sequence[tuple[Topic, int, dict[str, str]]]) -> None:
    columns = (Column(name, overflow="fold") for name in ("topic", "partitions", "replicas", "settings"))
    table = Table(*columns, box=None, pad_edge=False)
    for topic, replicas, settings in found:
        lines = "\n".join(f"{name}={value}" for name, value in settings.items())
        table.add_row(topic.name, str(topic.partitions), str(replicas), lines)
    Console().print(table)
