"""The command line under argument lists of all kinds, in this process and in processes of their own."""

import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog
import typer

from tests.fuzz.arguments import draw, shapes
from tradesaga.infra.cli import entry
from tradesaga.infra.cli.entry import COMMANDS, execute
from tradesaga.infra.errors import ExitCode
from tradesaga.infra.local_stack.ports import free_port
from tradesaga.infra.settings import PREFIX

pytestmark = pytest.mark.timeout(600)
LISTS = 1000
PROCESSES = 50
AT_ONCE = 2
CODES = {int(code) for code in ExitCode}


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    """Give an environment in which no server answers."""
    nobody = f"127.0.0.1:{free_port()}"
    return {
        f"{PREFIX}HOME": str(tmp_path / "home"), f"{PREFIX}KAFKA": nobody,
        f"{PREFIX}DATABASE_URL": f"postgresql://a:b@{nobody}/tradesaga", "COLUMNS": "200",
    }  # fmt: skip


@pytest.fixture
def alone(settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let commands run here as they would in an empty folder, with nothing on standard input."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(entry, "assemble", kept(entry.assemble))
    yield
    structlog.reset_defaults()


def kept(assemble: Callable[[str], typer.Typer]) -> Callable[[str], Any]:
    """Build each tree of commands once: a process does so for its one list, and takes longer over it than over that."""

    @cache
    def build(wanted: str) -> Any:
        return typer.main.get_command(assemble(wanted))

    names = {point.name for point in entry_points(group=COMMANDS)}
    return lambda wanted: build(wanted if wanted in names else "")


def check(arguments: list[str], code: int, out: str, err: str) -> None:
    """Hold one run to what is promised of all: a known exit code, no trace, and with `--json` an error as JSON."""
    told = f"{arguments!r}: exit {code}\n{out[-1000:]}\n{err[-2000:]}"
    assert code in CODES, told
    assert "Traceback" not in out + err, told
    assert "an unexpected " not in err, told
    if "--json" in arguments and code and err.strip():
        assert set(json.loads(err.strip().splitlines()[-1])["error"]) == {"code", "what", "where", "do"}, told


@pytest.mark.usefixtures("alone")
def test_any_list_ends_with_a_known_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    """A thousand lists from the real command tree: none crashes, none hangs, none is a fault of ours."""
    chance, known, codes = Random(7), shapes(), Counter[int]()
    for _ in range(LISTS):
        arguments = draw(chance, known)
        code = execute(arguments)
        said = capfd.readouterr()
        check(arguments, code, said.out, said.err)
        codes[code] += 1
    assert codes[ExitCode.USAGE] > LISTS // 4, codes
    assert codes[ExitCode.UNAVAILABLE] > LISTS // 50, codes


def test_any_list_ends_a_process_the_same_way(settings: dict[str, str], tmp_path: Path) -> None:
    """Fifty of them as users start them, most of commands that load no others."""
    chance, known = Random(8), shapes()
    mine = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}

    def run(arguments: list[str]) -> None:
        command = [sys.executable, "-m", "tradesaga.infra.cli.entry", *arguments]
        ended = subprocess.run(
            command, env=mine | settings, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
            check=False,
        )  # fmt: skip
        check(
            arguments,
            ended.returncode,
            ended.stdout.decode("utf-8", "replace"),
            ended.stderr.decode("utf-8", "replace"),
        )

    quick = [shape for shape in known if shape.path[0] in {point.name for point in entry_points(group=COMMANDS)}]
    drawn = [draw(chance, known if number % 5 == 0 else quick) for number in range(PROCESSES)]
    lists = [[word.replace("\0", "") for word in arguments] for arguments in drawn]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run, lists))
