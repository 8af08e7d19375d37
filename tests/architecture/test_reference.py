"""The documents name everything that a user can set, type, or find on a topic."""

import inspect
import re
from importlib.metadata import entry_points

from tests.architecture.sources import ROOT
from tradesaga.infra.kafka.topics import all_topics
from tradesaga.infra.settings import Settings
from tradesaga.infra.telemetry import metrics
from tradesaga.producers.limits import Limits
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.messages.message import Event

REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
CONTRACT = (ROOT / "docs" / "wire-contract.md").read_text(encoding="utf-8")


def test_every_setting_is_explained_and_nothing_else() -> None:
    """The table of settings and the settings are the same, those of single programs included."""
    told = set(re.findall(r"^\| `(TRADESAGA_\w+)`", REFERENCE, re.MULTILINE))
    told |= set(re.findall(r", `(TRADESAGA_\w+)` \|", REFERENCE))
    settings = {f"TRADESAGA_{name.upper()}" for name in Settings.model_fields} - {"TRADESAGA_SERVICE_DATABASES"}
    limits = {f"TRADESAGA_GATEWAY_{name.upper()}" for name in Limits.model_fields}
    alone = {"KAFKA_HEAP", "PG_BIN", "PG_BUFFERS", "MAVEN_MIRROR", "DEBUG", "VENUE_ADMIN_KEY"}

    assert told == settings | limits | {f"TRADESAGA_{name}" for name in alone}


def test_every_topic_and_message_is_written_down() -> None:
    """Each topic has its row in the contract, each step its events in the reference."""
    topics = [topic.name for topic in all_topics([trade.name])]
    said = [message.NAME for each in trade.steps for message in each.messages if issubclass(message, Event)]

    assert [name for name in topics if f"| `{name}` |" not in CONTRACT] == []
    assert [name for name in said if f"`{name}`" not in REFERENCE] == []


def test_metrics_worth_an_alert_exist() -> None:
    """No alert waits for a metric that nobody counts."""
    named = re.findall(r"`(tradesaga_\w+?)(?:_total)?`", REFERENCE)
    source = inspect.getsource(metrics)
    known = set(re.findall(r'"(tradesaga_\w+)"', source))
    known |= {f"tradesaga_worker_{name}" for name in re.findall(r'^    \("(\w+)", "\w+", ', source, re.MULTILINE)}

    assert [name for name in named if name not in known] == []


def test_commands_that_documents_show_exist() -> None:
    """Each `tradesaga COMMAND` in a document is one that is installed."""
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = {
        command
        for path in documents
        for command in re.findall(
            r"(?:^    |`)tradesaga ([a-z][a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert shown - _commands() == set()


def _commands() -> set[str]:
    found: set[str] = set()
    for point in entry_points(group="tradesaga.commands"):
        loaded = point.load()
        groups = getattr(loaded, "registered_commands", None)
        if groups is None:
            found.add(point.name)
            continue
        found |= {each.name or each.callback.__name__ for each in groups}
        found |= {each.name for each in loaded.registered_groups if each.name}
    return found
