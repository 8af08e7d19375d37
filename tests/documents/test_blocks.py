"""Every block of every page is run, or held to the program that would read it."""

import json
import re
import tomllib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Final

import asyncpg
import pytest
import yaml
from prometheus_client import REGISTRY

from tests.architecture.sources import ROOT, named
from tests.documents.blocks import Block, blocks, blocks_of, pages, prose
from tests.documents.shell import ShownError, check_command, check_mention, commands_of
from tests.faults.stage import CAST
from tradesaga.consumers.saga_log import chain
from tradesaga.infra.audit_log.checkpoint import parse_unverified
from tradesaga.infra.telemetry.metrics import WorkerCollector
from tradesaga.sagas.diagram import draw_mermaid
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.messages.message import Message, wire_type

_MENTION: Final = re.compile(r"(?<!`)`tradesaga ([a-z][^`\n]*)`(?!`)")
"""A command in a sentence: `` `tradesaga audit verify --topics` ``."""


def check_python(block: Block) -> None:
    """Compile it; `test_the_programs_of_a_page_run` runs it."""
    compile(block.body, str(block), "exec")


def check_sh(block: Block) -> None:
    """Parse each command as the program itself would."""
    for command in commands_of(block.body):
        check_command(command)


def check_console(block: Block) -> None:
    """Parse the commands behind `$`; the other lines are what they print."""
    typed = [line.removeprefix("$ ") for line in block.body.splitlines() if line.startswith("$ ")]
    assert typed, "a console block shows a command behind `$ `"
    for command in commands_of("\n".join(typed)):
        check_command(command)


def check_json(block: Block) -> None:
    """Read it as the message that its title names: `title="trade.trade-requested.v1"`."""
    known = {wire_type(trade.name, each): each for each in _messages()}
    known[block.title].from_wire(block.body.encode())
    assert json.loads(block.body).keys() <= known[block.title].model_fields.keys()


def check_toml(block: Block) -> None:
    """Read it; entry points are of groups that are looked for."""
    groups = tomllib.loads(block.body).get("project", {}).get("entry-points", {})
    assert groups.keys() <= {f"tradesaga.{each}" for each in ENTRY_POINTS}


def check_yaml(block: Block) -> None:
    """Read alerts; the metrics that they watch are counted."""
    known = {metric.name for metric in REGISTRY.collect()} | {metric.name for metric in WorkerCollector().collect()}
    for rule in yaml.safe_load(block.body):
        assert {"alert", "expr"} <= rule.keys()
        named_metrics = {name.removesuffix("_total") for name in re.findall(r"\btradesaga_\w+", rule["expr"])}
        assert named_metrics
        assert named_metrics - known == set()


def check_mermaid(block: Block) -> None:
    """Hold it to what `tradesaga diagram trade` draws."""
    assert block.body.strip() == draw_mermaid(trade).strip()


def check_sql(block: Block) -> None:
    """Leave it to `test_statements_can_be_prepared`, which has a database."""
    assert block.body.strip().endswith(";")


def check_text(block: Block) -> None:
    """Find what is neither code nor a command among the texts that have a check of their own."""
    checks = [check for start, check in TEXTS.items() if block.body.startswith(start)]
    assert len(checks) == 1, "give the text a check in TEXTS, or the block a language"
    checks[0](block.body)


def _is_a_checkpoint(text: str) -> None:
    assert parse_unverified(text).size == 2


def _is_the_hash(text: str) -> None:
    formula = "".join((chain.__doc__ or "").split())
    hashed, _, leaf = text.rpartition("leaf = ")
    assert "".join(hashed.split()) in formula
    assert leaf == "SHA-256( 0x00 || hash )\n"


def _names_processes(text: str) -> None:
    shown = set(re.findall(r"\b[a-z]+[12]\b", text))
    assert shown == {name for name, _ in CAST}


def _names_the_links(text: str) -> None:
    assert re.search(rf"\({len(CAST)} . 3\)", text)


TEXTS: Final[dict[str, Callable[[str], None]]] = {
    "tradesaga/trade.events/": _is_a_checkpoint,
    "hash = ": _is_the_hash,
    "clients ──HTTP──▶": _names_processes,
    "worker ──▶ a proxy": _names_the_links,
}
ENTRY_POINTS: Final = ("audit_texts", "commands", "participants", "sagas", "services")
RUN_ELSEWHERE: Final = {
    "docs/own-saga.md": "tests/e2e/test_own_saga_guide.py",
    "docs/paper-venue.md": "tests/integration/infra/paper_exchange/test_documented.py",
    "docs/quickstart.md": "tests/e2e/test_quickstart.py",
}
"""Pages whose programs need a server, and the test that runs them beside it."""
PROGRAMS: Final = sorted({block.page for block in blocks() if block.language == "python"})
RULES: Final[dict[str, Callable[[Block], None]]] = {
    "console": check_console,
    "json": check_json,
    "mermaid": check_mermaid,
    "python": check_python,
    "sh": check_sh,
    "sql": check_sql,
    "text": check_text,
    "toml": check_toml,
    "yaml": check_yaml,
}


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_a_block_is_what_its_language_says(block: Block) -> None:
    """A block without a language, or in one that has no rule, is refused."""
    assert block.language in RULES, f"{block}: give it one of {sorted(RULES)}"
    RULES[block.language](block)


@pytest.mark.parametrize("page", PROGRAMS, ids=named)
def test_the_programs_of_a_page_run(page: Any) -> None:
    """Blocks run in their order, later ones seeing what earlier ones made."""
    if elsewhere := RUN_ELSEWHERE.get(named(page)):
        assert page.name in (ROOT / elsewhere).read_text(encoding="utf-8")
        return
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in blocks_of(page):
        if block.language == "python":
            exec(compile(block.body, str(block), "exec"), namespace)


@pytest.mark.parametrize("page", pages(), ids=named)
def test_a_page_has_no_code_but_in_fences(page: Any) -> None:
    """Text that is set apart by four spaces would be checked by nobody."""
    lines = prose(page).splitlines()
    listed = False
    for before, line in zip(["", *lines], lines, strict=False):
        listed = bool(re.match(r"\s*([-*]|\d+\.) ", line)) or (listed and (not line or line.startswith(" ")))
        assert listed or before or not line.startswith("    "), f"put this into a fence: {line}"


@pytest.mark.parametrize("page", pages(), ids=named)
def test_commands_that_sentences_name_exist(page: Any) -> None:
    """Each command, sub-command and option is one that is installed."""
    for mention in _MENTION.findall(prose(page)):
        for command in commands_of(f"tradesaga {mention.replace('|', ' ')}"):
            check_mention(list(command.arguments))


@pytest.mark.stack
async def test_statements_can_be_prepared(database_url: str) -> None:
    """PostgreSQL knows the tables and columns of each statement that a page shows."""
    connection = await asyncpg.connect(database_url)
    try:
        for block in blocks():
            if block.language == "sql":
                for statement in filter(str.strip, block.body.split(";")):
                    await connection.prepare(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("shown", "fault"),
    [
        ("tradesaga nothing", "has no command nothing"),
        ("tradesaga audit verify --nothing", "nothing"),
        ("tradesaga audit", "needs a command"),
        ("tradesaga release trade.events three 4 retry -m x", "valid integer"),
        ("make nothing", "nothing to make"),
        ("TRADESAGA_NOTHING=1 tradesaga list", "no setting"),
        ("true && nothing", "no program"),
        ("pip install 'tradesaga[nothing]'", "no extra"),
        ("python -m tradesaga.nothing", "no module"),
    ],
)
def test_a_command_that_would_fail_is_refused(shown: str, fault: str) -> None:
    """The checks themselves notice what they are for."""
    *_, last = commands_of(shown)
    with pytest.raises(ShownError, match=fault):
        check_command(last)


def _messages() -> set[type[Message]]:
    return {message for step in trade.steps for message in step.messages}


def test_no_block_is_passed_over() -> None:
    """The number of fences is the number of blocks, twice."""
    for page in pages():
        fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(blocks_of(page)), named(page)
    assert entry_points(group="tradesaga.commands")
    assert (ROOT / "README.md") in pages()
