"""The architecture page names every room, and the pictures show the code as it is."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT, named
from tests.pictures import PICTURES
from tests.pictures.architecture import imports, rooms, route

PAGE = ROOT / "docs" / "architecture.md"
TABLE = re.compile(r"^\*\*`(\w+)/`\*\*.*?\n\n((?:\|.*\n)+)", re.MULTILINE)


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
