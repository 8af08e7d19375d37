"""The guide to a saga of one's own, followed by the letter: from an empty folder, on real servers."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
BLOCK = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
GUIDE = (ROOT / "docs" / "own-saga.md").read_text(encoding="utf-8")


def _environment() -> dict[str, str]:
    """Give a user's environment: nothing of ours is set, and `tradesaga` is a command."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("TRADESAGA_")}
    path = os.pathsep.join((str(Path(sys.executable).parent), given["PATH"]))
    return given | {"PATH": path, "TRADESAGA_KAFKA_HEAP": "256m"}


def _sh(folder: Path, script: str, **more: str) -> subprocess.CompletedProcess[str]:
    argv = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(
        argv, cwd=folder, env=_environment() | more, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give an empty folder; whatever the guide leaves running in it is ended."""
    made = tmp_path_factory.mktemp("guide")
    yield made
    _sh(made, "tradesaga down")


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, str]:
    """Follow the guide: write its modules, run its commands; gives what each block of commands printed."""
    printed: dict[str, str] = {}
    for match in BLOCK.finditer(GUIDE):
        info, body = match["info"].strip(), match["body"]
        if named := re.fullmatch(r'python title="(.+)"', info):
            (folder / named[1]).write_text(body)
        elif info == "sh" and "tradesaga down" not in body:
            ran = _sh(folder, body)
            assert ran.returncode == 0, (body, ran.stdout, ran.stderr)
            printed[body.splitlines()[0]] = ran.stdout + ran.stderr
    return printed


def test_the_guide_runs(folder: Path, told: dict[str, str]) -> None:
    """Every block works, and its three sagas end as it says: one completes, two are refused and leave nothing."""
    checked = told["tradesaga check --app shop"]
    assert "shop v1 is sound: reserve (compensatable), charge (pivot), ship (retriable)" in checked
    assert "warning" not in checked
    assert "8 messages" not in checked
    assert (folder / "contracts" / "shop.charged.v1.json").exists()
    started = next(text for block, text in told.items() if block.startswith("echo"))
    assert re.findall(r"COMPLETED|ABORTED", started)[:3] == ["COMPLETED", "ABORTED", "ABORTED"]
    listed = [json.loads(line) for line in _sh(folder, "tradesaga list --json").stdout.splitlines()]
    assert sorted(saga["state"] for saga in listed) == ["ABORTED", "ABORTED", "COMPLETED"]
    url = json.loads((folder / ".tradesaga" / "state.json").read_text())["database_url"]
    read = "import asyncio,asyncpg,sys\nasync def main():\n c=await asyncpg.connect(sys.argv[1])\n"
    read += " print(await c.fetchval('SELECT pieces FROM shop_stock'))\nasyncio.run(main())"
    assert _sh(folder, f"'{sys.executable}' -c \"$READ\" '{url}'", READ=read).stdout.strip() == "3"


def test_another_app_is_refused_while_the_stack_runs(folder: Path, told: dict[str, str]) -> None:
    """Running services would not have it: `up` says what to do, and never that all is ready."""
    assert told
    (folder / "other.py").write_text("services = {}\n")
    up = _sh(folder, "tradesaga up -d --app other")
    assert (up.returncode, "tradesaga down" in up.stderr) == (4, True), up.stderr


def test_entry_points_are_found_without_app(folder: Path, told: dict[str, str]) -> None:
    """Installed as the guide's last part says, saga and services are known, and nobody owns a step twice."""
    assert told
    body = next(match["body"] for match in BLOCK.finditer(GUIDE) if match["info"].strip() == "toml")
    lines = re.sub(r'^\[project\.entry-points\."(.+)"\]$', r"[\1]", body, flags=re.MULTILINE).replace('"', "")
    installed = folder / "site" / "shop-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(lines)
    paths = os.pathsep.join((str(folder), str(folder / "site")))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    checked = _sh(elsewhere, "tradesaga check", PYTHONPATH=paths)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "shop v1 is sound" in checked.stdout
    unknown = _sh(elsewhere, "tradesaga run nobody", PYTHONPATH=paths)
    assert "stock" in unknown.stderr
    assert "till" in unknown.stderr
