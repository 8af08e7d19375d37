"""Size, names, open ends, exports and docstrings of every file."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.sources import ROOT, named, parsed, python_files, shipped_files, tracked

FILE_LINES = 400
FUNCTION_LINES = 50
BANNED = {"base", "common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
MARKS = "TODO|FIXME|XXX|HACK"
OPEN_ENDS = (
    re.compile(rf"(?:#|--|//).*\b(?:{MARKS})\b"),
    re.compile(r"raise +NotImplemented" + "Error"),
    re.compile(r"\b(?:mark\.|pytest\.)(?:skip|skipif|xfail|importorskip)" + r"\b"),
    re.compile("# type:" + " ignore"),
)
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|root|home/\w+)/[\w.]")
TEXTS = {
    ".py",
    ".md",
    ".toml",
    ".ini",
    ".yml",
    ".yaml",
    ".json",
    ".sql",
    ".lock",
    ".txt",
    ".html",
    ".sh",
    ".sha256",
    "",
}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """List the functions of a file, nested ones too."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_file_is_longer_than_one_can_hold_in_mind() -> None:
    """A file of more than 400 lines is two thoughts."""
    lengths = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}

    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    """Fifty lines from the definition to its last statement."""
    lengths = {
        f"{named(path)}:{each.name}": (each.end_lineno or each.lineno) - each.lineno + 1
        for path in python_files()
        for each in functions(path)
    }

    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES} == {}


def test_no_module_is_a_drawer() -> None:
    """A name that fits everything says nothing."""
    assert [named(path) for path in tracked() if {path.stem, path.parent.name} & BANNED] == []


def test_nothing_is_left_open() -> None:
    """No reminders, no stubs, no tests that are not run, no untyped holes."""
    found = [
        f"{named(path)}:{number}: {line.strip()}"
        for path in tracked()
        if path.suffix in {".py", ".md", ".toml", ".sql", ".html", ".js", ".css"}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if any(pattern.search(line) for pattern in OPEN_ENDS)
    ]

    assert found == []


def test_no_committed_file_knows_a_machine() -> None:
    """A path of somebody's machine works on that machine only."""
    texts = [path for path in tracked() if path.suffix in TEXTS and path.name != Path(__file__).name]
    found = [
        f"{named(path)}:{number}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if MACHINE_PATHS.search(line)
    ]

    assert found == []


def test_lock_files_name_packages_and_hashes_and_no_server() -> None:
    """Where packages come from is the installing side's business."""
    locks = [path for path in tracked() if path.suffix == ".lock"]

    assert {path.name for path in locks} >= {"requirements.lock", "requirements-dev.lock"}
    for path in locks:
        text = path.read_text(encoding="utf-8")
        assert "://" not in text, path.name
        assert not re.search(r"^\s*(?:-i|--index-url|--extra-index-url|--find-links|-e)\b", text, re.MULTILINE), (
            path.name
        )
        assert "--hash=sha256:" in text, path.name


def test_what_a_module_exports_is_there_and_sorted() -> None:
    """`__all__` is a promise: sorted, without repeats, and each name can be imported."""
    for path in shipped_files():
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in parsed(path).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                exported: list[str] = ast.literal_eval(node.value)
                module = importlib.import_module(name)
                assert exported == sorted(set(exported)), name
                assert [each for each in exported if not hasattr(module, each)] == [], name


def test_every_shipped_module_says_what_it_is_and_every_test_what_it_shows() -> None:
    """A package or module without a sentence is a riddle; so is a test."""
    silent = [named(path) for path in python_files() if path.stat().st_size and not ast.get_docstring(parsed(path))]
    unsaid = [
        f"{named(path)}:{each.name}"
        for path in python_files()
        for each in functions(path)
        if path.name.startswith("test_") and each.name.startswith("test_") and not ast.get_docstring(each)
    ]

    assert silent == []
    assert unsaid == []
