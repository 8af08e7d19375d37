"""The architecture page names every room, and the pictures show the code as it is."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT, named, shipped_files
from tests.pictures import PICTURES
from tests.pictures.architecture import imports, rooms, route

PAGE = ROOT / "docs" / "architecture.md"
TABLE = re.compile(r"^\*\*`(\w+)/`\*\*.*?\n\n((?:\|.*\n)+)", re.MULTILINE)
MIGRATIONS = ROOT / "infra" / "postgres" / "migrations"
WITHOUT = (
    MIGRATIONS,
    ROOT / "producers" / "demo",
    ROOT / "consumers" / "testing",
    ROOT / "infra" / "paper_exchange",
    ROOT / "consumers" / "audit" / "replay" / "saga_cache.py",
)
"""Modules that the list of tables leaves out; the last two have tables of SQLite."""


@pytest.mark.parametrize("path", PICTURES, ids=named)
def test_each_picture_is_what_the_code_draws(path: Path) -> None:
    """Otherwise: `python -m tests.pictures`."""
    assert path.read_text(encoding="utf-8") == PICTURES[path]()


def test_each_room_has_its_line() -> None:
    """The tables of the architecture page name each folder and each module of a package once, and nothing else."""
    text = PAGE.read_text(encoding="utf-8")
    tables = {package: _first_column(table) for package, table in TABLE.findall(text)}

    assert {package: sorted(names) for package, names in tables.items()} == {
        package: sorted(names) for package, names in rooms().items()
    }


def _first_column(table: str) -> list[str]:
    return [name for line in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", line.split("|")[1])]


def test_each_table_has_its_writers_and_readers() -> None:
    """The page lists the tables that migrations create, and every module whose SQL writes or reads them."""
    migrations = (path.read_text(encoding="utf-8") for path in (MIGRATIONS / "versions").glob("*.py"))
    section = PAGE.read_text(encoding="utf-8").partition("## Tables\n")[2].partition("\n## ")[0]
    rows = {name: cells for name, *cells in re.findall(r"^\| `(\w+)` \|.*\| (.*) \| (.*) \|$", section, re.MULTILINE)}

    assert sorted(rows) == sorted(re.findall(r"^CREATE TABLE (\w+) \($", "".join(migrations), re.MULTILINE))
    for name, (written, read) in rows.items():
        writers, others = (re.findall(r"`([^`]+)`", cell) for cell in (written, read))
        readers = [*others, *(writers if "the same" in read else [])]
        found = _modules(rf"\b(?:INSERT INTO|UPDATE) {name}\b|_to_table\(\"{name}\"")
        assert [module for module in found if not module.startswith(tuple(writers))] == [], f"{name} is written"
        found = _modules(rf"(?<!DELETE )\b(?:FROM|JOIN) {name}\b")
        assert [module for module in found if not module.startswith(tuple(readers))] == [], f"{name} is read"
        naming = _modules(rf"\b{name}\b")
        assert [path for path in writers + others if not any(module.startswith(path) for module in naming)] == []


def _modules(pattern: str) -> list[str]:
    """List the modules in which a pattern occurs."""
    found = re.compile(pattern)
    return [
        named(path)
        for path in shipped_files()
        if not any(path.is_relative_to(each) for each in WITHOUT) and found.search(path.read_text(encoding="utf-8"))
    ]


def test_the_trade_s_way_is_numbered_from_one() -> None:
    """The picture takes its numbers from the page, so a gap would be in both."""
    numbers = list(dict.fromkeys(number for number, _, _ in route()))
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 8
    assert [room for _, package, room in route() if room not in rooms()[package]] == []


def test_the_picture_s_layers_are_those_that_are_imported() -> None:
    """Each package imports the ones that the picture has below it, and none above."""
    down = [("producers", "infra"), *pairwise(["consumers", "infra", "sagas", "schemas"])]
    assert [each for each in down if each not in imports()] == []
    assert {(lower, upper) for upper, lower in down} & imports() == set()
    assert {("producers", "consumers"), ("consumers", "producers")} & imports() == set()
