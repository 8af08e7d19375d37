"""The glossary is about the code as it is, and words that were retired stay out of its names."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT, named, parsed, shipped_files

PAGE = ROOT / "docs" / "glossary.md"
ENTRY = re.compile(r"^\| (?P<term>[\w -]+) \| (?P<meaning>.+?) \| `(?P<path>[\w/]+\.py)` · `(?P<name>\w+)` \|$")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
RETIRED = {
    "adoption": "row rebuild",
    "asking": "cli options",
    "bury": "dead letter",
    "claiming": "acquire",
    "congestion": "backpressure",
    "crew": "processes",
    "cutting": "verify_segment",
    "docket": "batch context",
    "hands": "tamper",
    "happenings": "facts",
    "judgement": "decision",
    "leased": "outbox writer",
    "news": "first report",
    "outlook": "result",
    "poison": "dead letter",
    "postponed": "deferred",
    "rehearsal": "in-memory run",
    "say": "publish",
    "shelf": "cache",
    "soundness": "validation",
    "speaker": "event factory",
    "springs": "fault actions",
    "surroundings": "participant runtime",
    "sweep": "background check",
    "telling": "timeline builder",
    "unjudgeable": "not processable",
}
"""Words that took a dictionary to read, and what is said instead."""


@cache
def tables() -> list[list[str]]:
    """Return the rows of each table, their heads left out."""
    found: list[list[str]] = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| term |"):
            found.append([])
        elif line.startswith("|") and not line.startswith("| ---"):
            found[-1].append(line)
    return found


def rows() -> list[str]:
    """Return all rows."""
    return [row for table in tables() for row in table]


def defined(path: Path) -> Iterator[str]:
    """Yield the names that a file defines, nested ones too."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def words(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each word of each name that a file uses, in small letters, with the name."""
    names = {*path.relative_to(ROOT).with_suffix("").parts, *defined(path)}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.arg | ast.keyword):
            names.add(node.arg or "")
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
    for name in names:
        yield from ((word.lower(), name) for word in WORD.findall(name))


@pytest.mark.parametrize("row", rows())
def test_an_entry_names_what_is_there(row: str) -> None:
    """Each has a sentence, a file, and a name that this file defines."""
    entry = ENTRY.match(row)

    assert entry is not None, row
    assert entry["meaning"].endswith(".")
    assert (ROOT / entry["path"]).is_file()
    assert entry["name"] in set(defined(ROOT / entry["path"]))


def test_each_term_has_one_entry_in_its_place() -> None:
    """A reader looks a term up by the alphabet, and finds one meaning."""
    terms = [[row.split("|")[1].strip() for row in table] for table in tables()]

    assert [len(table) > 20 for table in terms] == [True, True]
    assert terms == [sorted(table, key=str.lower) for table in terms]
    assert len({*terms[0], *terms[1]}) == len(terms[0]) + len(terms[1])


def test_retired_words_are_in_no_name() -> None:
    """Modules, classes, functions, arguments and variables of shipped code; say what stands beside the word."""
    found = [
        f"{named(path)}: {name}: {RETIRED[word]}"
        for path in shipped_files()
        for word, name in words(path)
        if word in RETIRED
    ]

    assert found == []


def test_a_word_is_found_in_names_of_every_kind() -> None:
    """In this file: its name, a constant, a class that it imports, a function, an argument, and an attribute."""
    spelled = {word for word, _ in words(Path(__file__))}

    assert {"glossary", "retired", "iterator", "defined", "row", "endswith"} <= spelled
