# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportPrivateImportUsage=false, reportOptionalIterable=false
"""Bring a recorded release back to life: its rows, its records at their offsets and times, and its files."""

import base64
import json
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from tests.clusters.standby import programs
from tradesaga.infra.local_stack.servers import start_servers
from tradesaga.infra.local_stack.state import StackState

RELEASES: Final = Path(__file__).parent / "releases"
_CLOCK: Final = "message.timestamp.type"
_PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """One saga of a release: its id, its state when it was recorded and once it had ended, and what was asked for."""

    saga_id: str
    state: str
    end: str
    request: dict[str, str]


def sagas(release: Path) -> dict[str, Recorded]:
    """Return the release's sagas by what became of them."""
    return {name: Recorded(**each) for name, each in json.loads((release / "sagas.json").read_text()).items()}


def restore(release: Path, home: Path) -> StackState:
    """Start servers in `home`, with the release's data in them and no service running."""
    state = start_servers(home)
    _restore_database(release, state.database_url)
    _restore_topics(release, state.kafka)
    venue = home / "venue"
    venue.mkdir()
    with sqlite3.connect(venue / "ledger.sqlite") as ledger:
        ledger.executescript((release / "venue.sql").read_text())
    for file in (release / "stack").iterdir():
        shutil.copy(file, home / file.name)
    (home / "audit.key").chmod(0o600)
    return state


def _restore_database(release: Path, url: str) -> None:
    psql = [str(programs() / "psql"), "-qv", "ON_ERROR_STOP=1", url]
    subprocess.run([*psql, "-c", "DROP SCHEMA public CASCADE"], check=True, capture_output=True)
    subprocess.run([*psql, "-f", str(release / "database.sql")], check=True, capture_output=True)


def _restore_topics(release: Path, kafka: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    lines = [json.loads(line) for line in (release / "topics.jsonl").read_text().splitlines()]
    topics = [line for line in lines if "topic" in line]
    _wait(admin.create_topics([
        NewTopic(each["topic"], each["partitions"], 1, config={**each["settings"], _CLOCK: "CreateTime"})
        for each in topics
    ]))  # fmt: skip
    producer = Producer({"bootstrap.servers": kafka, "linger.ms": 0})
    topic = ""
    for line in lines:
        if "topic" in line:
            topic = line["topic"]
            continue
        headers = [(name, _bytes(value)) for name, value in line["headers"]]
        producer.produce(topic, _bytes(line["value"]), _bytes(line["key"]), line["partition"],
                         timestamp=line["timestamp"], headers=headers)  # fmt: skip
    assert producer.flush(_PATIENCE) == 0
    clock = ConfigEntry(_CLOCK, "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
    _wait(admin.incremental_alter_configs([
        ConfigResource(ResourceType.TOPIC, each["topic"], incremental_configs=[clock])
        for each in topics if each["settings"].get(_CLOCK) == "LogAppendTime"
    ]))  # fmt: skip
    for group, offsets in json.loads((release / "offsets.json").read_text()).items():
        places = [
            TopicPartition(place.rpartition("/")[0], int(place.rpartition("/")[2]), offset)
            for place, offset in offsets.items()
        ]
        _wait(admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)]))


def _wait(answers: dict[Any, Any]) -> None:
    for answer in answers.values():
        answer.result()


def _bytes(text: Any) -> Any:
    return base64.b64decode(text[0]) if isinstance(text, list) else text if text is None else str(text).encode()
