"""The page of guarantees names tests, mutants and invariants that are there, and all of them."""

import ast
import re
from functools import cache

import pytest

from tests.architecture.sources import ROOT, parsed
from tests.faults.invariants import CHECKS
from tests.model.bugs import BUGS
from tests.mutants.catalogue import MUTANTS
from tests.mutants.money import MONEY_MUTANTS
from tests.mutants.rules import RULE_MUTANTS
from tests.mutants.sql import SQL_MUTANTS

PAGE = ROOT / "docs" / "guarantees.md"
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
NAMES = (
    "duplicate start", "duplicate fact and command", "bar before action", "action after bar", "bar of a resting order",
    "late success while compensating", "timer for an old attempt", "lost answer from the venue", "fill racing a cancel",
    "compensation that keeps failing", "poison", "report before its trigger", "fill after ABORTED",
    "bust after COMPLETED", "park and release", "out-of-order facts", "unknown definition version", "clock jumps",
)  # fmt: skip


@cache
def text() -> str:
    """Give the page."""
    return PAGE.read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    """List the rows of its tables of promises."""
    found = [line.strip("| \n").split(" | ") for line in text().splitlines() if line.startswith("| ") and "::" in line]
    return [[cell.strip() for cell in row] for row in found]


@pytest.mark.parametrize(("path", "name"), sorted(set(TEST.findall(text()))))
def test_each_named_test_exists(path: str, name: str) -> None:
    """A promise stands beside a test that is there, under this very name."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in ast.walk(parsed(ROOT / "tests" / path)) if isinstance(node, functions)}


def test_each_promise_has_a_test() -> None:
    """No row is only a claim."""
    assert len(rows()) > 60
    assert [row[0] for row in rows() if not TEST.search(" ".join(row[1:]))] == []


def test_each_mutant_has_its_promise() -> None:
    """Each planted bug is named beside the promise that it breaks, and nothing else is called one."""
    planted = {f"▣ {mutant.name}" for mutant in MUTANTS} | {f"▤ {mutant.name}" for mutant in SQL_MUTANTS}
    planted |= {f"◆ {mutant.name}" for mutant in RULE_MUTANTS}
    planted |= {f"▥ {mutant.name}" for mutant in MONEY_MUTANTS} | {f"◇ {name}" for name in BUGS}
    named = {
        mutant
        for row in rows()
        for cell in row[2:]
        for mutant in cell.split("<br>")
        if mutant[:1] in {"▣", "▤", "▥", "◆", "◇"}
    }
    assert named == planted


@pytest.mark.parametrize("name", NAMES)
def test_each_known_anomaly_is_listed(name: str) -> None:
    """The ways in which sagas are known to fail each have their row."""
    assert any(name in row[0] for row in rows())


def test_each_invariant_of_the_fault_run_is_listed() -> None:
    """As it is called in the run's own table."""
    assert [told for number, told, _ in CHECKS if f"| {number} | {told} |" not in text()] == []
