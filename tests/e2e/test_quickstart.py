"""The quickstart, followed by the letter from a clone: every command on the page, on real servers, in one shell."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT
from tests.documents.blocks import Block, blocks_of

pytestmark = [pytest.mark.stack, pytest.mark.full, pytest.mark.timeout(900)]
PAGE = blocks_of(ROOT / "docs" / "quickstart.md")
PROMISED = 10 * 60
"""Seconds from the clone to the end of the page, reading included; the commands alone must stay far below."""
VARYING = re.compile(r"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+Z|\d+\.\d+ ?s\b|\s)+")


@dataclass(frozen=True, slots=True)
class Followed:
    """What following the page came to: what each block printed, by its number on the page, and the seconds it took."""

    balances: dict[str, int]
    printed: dict[int, str]
    took: dict[int, float]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    """Follow the page in a fresh clone; whatever it leaves running is ended."""
    folder = tmp_path_factory.mktemp("quickstart")
    clone, logs = folder / "tradesaga", folder / "logs"
    logs.mkdir()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    given = {name: value for name, value in os.environ.items() if not name.startswith(("TRADESAGA_", "VIRTUAL_ENV"))}
    given |= {"TRADESAGA_KAFKA_HEAP": "256m"}
    script = "\n".join(_script(number, block, logs) for number, block in enumerate(PAGE))
    script += f"\ndate +%s.%N > {logs}/{len(PAGE)}.began"
    try:
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=clone, env=given, timeout=800, check=False
        )  # fmt: skip
        printed = {int(log.stem): log.read_text(encoding="utf-8") for log in logs.glob("*.out")}
        assert ran.returncode == 0, printed[max(printed)]
        yield Followed(json.loads((logs / "balances").read_text()), printed, _durations(logs))
    finally:
        down = f". {clone}/.venv/bin/activate && cd {folder}/first-saga && tradesaga down"
        subprocess.run(["bash", "-c", down], env=given, capture_output=True, timeout=120, check=False)


def _script(number: int, block: Block, logs: Path) -> str:
    """Write what a reader does with a block: save a module under its name, or enter commands."""
    began = f"date +%s.%N > {logs}/{number}.began"
    if block.language == "python":
        return f"{began}\ncat > {block.title} <<'END OF BLOCK'\n{block.body}END OF BLOCK"
    before = _balances(logs) if "tradesaga down" in block.body else ""
    return f"exec > {logs}/{number}.out 2>&1\n{before}\n{began}\n{_typed(block)}"


def _typed(block: Block) -> str:
    """Return the commands of a block, without what they print."""
    if block.language == "sh":
        return block.body
    return "\n".join(line.removeprefix("$ ") for line in block.body.splitlines() if line.startswith("$ "))


def _balances(logs: Path) -> str:
    """Write the command that asks PostgreSQL for the accounts, before the page stops it."""
    read = (
        "import asyncio, asyncpg, json, pathlib\n"
        "url = json.loads(pathlib.Path('.tradesaga/state.json').read_text())['database_url']\n"
        "async def main():\n"
        "    sql = await asyncpg.connect(url)\n"
        "    print(json.dumps(dict(await sql.fetch('SELECT account, cents FROM bank_account'))))\n"
        "asyncio.run(main())"
    )
    return f"python -c {shlex.quote(read)} > {logs}/balances"


def _durations(logs: Path) -> dict[int, float]:
    began = sorted((int(log.stem), float(log.read_text())) for log in logs.glob("*.began"))
    return {number: following - at for (number, at), (_, following) in pairwise(began)}


def _same(line: str) -> str:
    """Return what is the same in every run: the line without its times, and with single blanks."""
    return VARYING.sub(" ", line).strip()


def test_every_block_is_followed() -> None:
    """A block of another kind would be shown to readers and run by nobody."""
    assert {block.language for block in PAGE} == {"console", "python", "sh"}
    assert [block.title for block in PAGE if block.title] == ["transfer.py", "test_transfer.py"]


def test_what_the_page_shows_is_what_is_printed(followed: Followed) -> None:
    """Each line below a command is one that it prints; times and blanks aside, and `...` for lines left out."""
    for number, block in enumerate(PAGE):
        if block.language == "console":
            printed = [_same(line) for line in followed.printed[number].splitlines()]
            shown = [_same(line) for line in block.body.splitlines() if line[:2] not in {"$ ", ".."}]
            assert [line for line in shown if line not in printed] == [], followed.printed[number]


def test_the_money_is_where_the_page_says(followed: Followed) -> None:
    """One transfer has completed, and the other's debit was returned."""
    assert followed.balances == {"alice": 700, "bob": 300}


def test_the_page_takes_no_longer_than_it_says(followed: Followed) -> None:
    """The commands leave most of the ten minutes to the reader, even on a machine that others use."""
    assert sum(followed.took.values()) < PROMISED / 2, followed.took
