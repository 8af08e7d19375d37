"""No regular expression of the product can be made to take more than linear time by what it reads."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from tests.architecture.regular_expressions import flaws
from tests.architecture.sources import ROOT, named, parsed, shipped_files

ANCHORED = {"match", "fullmatch"}
METHODS = {*ANCHORED, "search", "sub", "subn", "split", "findall", "finditer"}
GIVEN = {"schemas/amounts.py", "infra/paper_exchange/faults.py", "infra/paper_exchange/parameters.py"}
"""Files that are given an expression: `DecimalText` and `matching` by callers whose constants are looked at, and a
fault plan by the paper venue's operator, to be held against order ids of 36 characters."""
HARMLESS = (
    r"[0-9a-f]{8}-[0-9a-f]{4}", r"^[A-Z0-9]+/[A-Z0-9]+$", r"(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,8})?", r"(ab|cd)*e",
    r"^[^\x00]*$", r"a+b+c+",
)  # fmt: skip
HARMFUL = {
    r"(a+)+$": "a repetition inside a repetition",
    r"(?:[a-z]+ ?)*x": "a repetition inside a repetition",
    r"(?:\d{1,9}){1,9}": "a repetition inside a repetition",
    r"(?:ab|\w)*c": "a repetition of alternatives that begin alike",
    r"(?:\w-|\d)+$": "a repetition of alternatives that begin alike",
    r"(?:a?)*b": "a repetition of what may be nothing",
    r"^\s*.*\s*$": "two repetitions can share out the same characters",
    r"^\w+\d+$": "two repetitions can share out the same characters",
    r"[a-z]*x[a-z]*y": "two repetitions can share out the same characters",
    r"^(([a-z])+.)+[A-Z]([a-z])+$": "a repetition inside a repetition",
}
SEARCHED = {
    r'"(?:[^"\\]|\\.)*"': True,
    r"\s+$": True,
    r"[^@]*@": True,
    r"(?<=://)[^/\s:@]*:[^/\s@]*(?=@)": False,
    r"FROM \('([^']+)'\)": False,
    r"[,\s]+": False,
    r"(?<!^)(?=[A-Z])": False,
}


class Expression(NamedTuple):
    """An expression of the product: where it stands, and whether it is searched for."""

    place: str
    pattern: str | bytes
    searched: bool


@pytest.mark.parametrize("pattern", HARMLESS)
def test_linear_expressions_pass(pattern: str) -> None:
    """The rule has nothing against what cannot run wild."""
    assert flaws(pattern, searched=False) == []


@pytest.mark.parametrize("pattern", HARMFUL)
def test_wild_expressions_are_found(pattern: str) -> None:
    """Each way of running wild has an example that the rule finds."""
    assert HARMFUL[pattern] in flaws(pattern, searched=False)


@pytest.mark.parametrize("pattern", SEARCHED)
def test_searches_that_begin_anew_are_found(pattern: str) -> None:
    """A search may not run over the same text from each place where it can begin."""
    assert flaws(pattern, searched=False) == []
    assert bool(flaws(pattern, searched=True)) == SEARCHED[pattern]


def test_the_product_s_expressions_are_linear() -> None:
    """Every pattern of `re`, and every one that pydantic is given."""
    found = [each for path in shipped_files() for each in expressions(path)]

    assert len(found) > 25
    assert {each.place: why for each in found if (why := flaws(each.pattern, searched=each.searched))} == {}


def expressions(path: Path) -> Iterator[Expression]:
    """List the expressions of a file; fails for one whose text cannot be told from the module."""
    tree = parsed(path)
    sources = [(each, *source) for each in ast.walk(tree) if isinstance(each, ast.Call) and (source := _source(each))]
    if not sources:
        return
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for call, node, method in sources:
        place = f"{named(path)}:{call.lineno}"
        pattern = _text(module, node)
        if pattern is None:
            assert named(path) in GIVEN, f"{place}: write the expression where it can be read"
            continue
        searched = method not in ANCHORED if method != "compile" else _is_searched(tree, call)
        yield Expression(place, pattern, searched)


def _source(call: ast.Call) -> tuple[ast.expr, str] | None:
    """Give the expression's node and the method it is used by; pydantic's are anchored, and matched by Rust."""
    match call.func:
        case ast.Attribute(value=ast.Name(id="re"), attr=method) if call.args and method in {*METHODS, "compile"}:
            return call.args[0], method
        case ast.Name(id="DecimalText"):
            return call.args[0], "match"
        case ast.Attribute(attr="matching") if len(call.args) == 2:
            return call.args[1], "fullmatch"
        case _:
            given = next((each.value for each in call.keywords if each.arg == "pattern"), None)
            return None if given is None else (given, "match")


def _text(module: ModuleType, node: ast.expr) -> str | bytes | None:
    """Work out a constant expression in its module; None where it depends on what happens."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    if not names <= vars(module).keys():
        return None
    code = compile(ast.Expression(node), module.__name__, "eval")
    return eval(code, vars(module))


def _is_searched(tree: ast.Module, call: ast.Call) -> bool:
    """Say whether a compiled expression is used by anything but `match` and `fullmatch`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is call:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name):
                return not _uses(tree, target.id) <= ANCHORED
    return True


def _uses(tree: ast.Module, name: str) -> set[str]:
    """Give the methods by which a name is used, and `""` where it is handed on."""
    methods = [
        each for each in ast.walk(tree)
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == name
    ]  # fmt: skip
    loads = [
        each for each in ast.walk(tree)
        if isinstance(each, ast.Name) and each.id == name and isinstance(each.ctx, ast.Load)
    ]  # fmt: skip
    return {each.attr for each in methods} | ({""} if len(loads) > len(methods) else set())
