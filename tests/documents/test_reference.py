"""The written pages are what the program writes today, and every command explains itself."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.sources import ROOT, named, shipped_files
from tests.documents.blocks import pages, prose
from tests.documents.reference import examples, leaves, render
from tests.documents.shell import check_command, commands_of, known_settings
from tradesaga.infra.kafka.topics import all_topics
from tradesaga.sagas.trade.definition import trade

COMMANDS = dict(leaves())


@pytest.mark.parametrize(("name", "text"), render().items(), ids=render())
def test_a_page_is_what_the_program_writes(name: str, text: str) -> None:
    """Run `make reference` and commit what it has changed."""
    assert (ROOT / name).read_text(encoding="utf-8") == text


def test_every_variable_that_is_read_is_listed() -> None:
    """No shipped file names a variable that the reference does not have."""
    read = {
        name
        for path in shipped_files()
        for name in re.findall(r"\bTRADESAGA_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))
    }
    prefixes = {"TRADESAGA_GATEWAY", "TRADESAGA_DATABASE_URL"}
    unknown = {name for name in read - known_settings() - prefixes if "DATABASE_URL_" not in name}
    assert unknown - UNLISTED == set()


def test_every_topic_is_in_the_wire_contract() -> None:
    """A client of Kafka finds each topic of the trade there."""
    contract = (ROOT / "docs" / "wire-contract.md").read_text(encoding="utf-8")
    assert [topic.name for topic in all_topics([trade.name]) if f"| `{topic.name}` |" not in contract] == []


@pytest.mark.parametrize("page", pages(), ids=named)
def test_metrics_that_a_page_names_exist(page: Path) -> None:
    """Nobody waits for a metric that is not counted."""
    listed = set(re.findall(r"`(tradesaga_\w+)`", (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")))
    shown = set(re.findall(r"`(tradesaga_[a-z_]+)[`{]", prose(page)))
    assert shown - listed - {"tradesaga_schema"} == set()  # a table


def test_labels_that_a_page_names_exist() -> None:
    """A query by a label that the metric does not have would match nothing."""
    rows = (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")
    labels = dict(re.findall(r"^\| `(tradesaga_\w+)` \| \w+ \| ([^|]*) \|", rows, re.MULTILINE))
    for page in pages():
        for metric, label in re.findall(r"`(tradesaga_[a-z_]+)\{(\w+)=", prose(page)):
            assert f"`{label}`" in labels[metric], f"{named(page)}: {metric} has no label {label}"


UNLISTED = {"TRADESAGA_FAILPOINT"}
"""Read by tests of the project alone."""


@pytest.mark.parametrize(("path", "command"), COMMANDS.items(), ids=COMMANDS)
def test_a_command_explains_itself(path: str, command: Any) -> None:
    """A sentence about the command, one about each argument and option, and an example that can be parsed."""
    assert command.help
    unexplained = [each.opts for each in command.params if not getattr(each, "help", None)]
    assert unexplained == []
    shown = examples(command)
    assert [each for each in shown if each.startswith(path)], f"`{path} --help` has no example"
    for each in shown:
        for one in commands_of(each):
            check_command(one)
