"""Messages that the operator's page quotes are those that the program prints."""

import ast
import re
from functools import cache
from typing import Final

import pytest

from tests.architecture.sources import ROOT, parsed, shipped_files
from tests.documents.blocks import prose

PAGE: Final = ROOT / "docs" / "operations.md"
_QUOTE: Final = re.compile(r"(?<!\*)\*(?![*\s])([^*]+)\*(?!\*)")
_VALUE: Final = re.compile(r"…|\\<\w+>|<\w+>|\b\d+(?:/\d+)?\b")
"""What stands in a quoted message for a value."""


@cache
def texts() -> str:
    """Return every text of the shipped code but docstrings, one a line; an ellipsis stands for each inserted value."""
    found: list[str] = []
    for path in shipped_files():
        nodes = list(ast.walk(parsed(path)))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        strings = (
            each for each in nodes if isinstance(each, ast.JoinedStr | ast.Constant) and id(each) not in docstrings
        )
        found += (" ".join(_text(each).split()) for each in strings)
    return "\n".join(found)


def _text(node: ast.JoinedStr | ast.Constant) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values)


@cache
def quotes() -> tuple[str, ...]:
    """Return the messages that the page quotes."""
    return tuple(sorted({" ".join(each.split()) for each in _QUOTE.findall(prose(PAGE))}))


def parts(quote: str) -> list[str]:
    """Return the words of a quoted message between its values."""
    return [part for part in map(str.strip, _VALUE.split(quote)) if part]


@pytest.mark.parametrize("quote", quotes())
def test_a_quoted_message_is_printed(quote: str) -> None:
    """An operator searches the page for the words that the screen shows."""
    assert [part for part in parts(quote) if part not in texts()] == []


def test_messages_are_quoted() -> None:
    """The page quotes many, and one that is not printed would be noticed."""
    assert len(quotes()) > 20
    assert "no such message is printed " + "anywhere" not in texts()


def test_each_reason_of_a_halt_is_on_the_page() -> None:
    """Whatever the comparison of database and topics raises has its remedy there."""
    raised = [
        " ".join(_text(argument).split())
        for node in ast.walk(parsed(ROOT / "infra" / "outbox" / "guard_rules.py"))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "HaltError"
        for argument in node.args
        if isinstance(argument, ast.JoinedStr)
    ]

    assert len(raised) > 10
    assert [each for each in raised if not any(all(part in each for part in parts(quote)) for quote in quotes())] == []


def test_each_reason_of_a_failed_saga_is_on_the_page() -> None:
    """`Rules.stands` says why a saga is FAILED; the page has a row for each of its reasons."""
    stands = next(
        node
        for node in ast.walk(parsed(ROOT / "consumers" / "saga_log" / "reading.py"))
        if isinstance(node, ast.FunctionDef) and node.name == "stands"
    )
    pairs = [node.elts[0] for node in ast.walk(stands) if isinstance(node, ast.Tuple)]
    reasons = {each.value for each in pairs if isinstance(each, ast.Constant)}
    reasons |= {_text(node).split(":")[0] for node in ast.walk(stands) if isinstance(node, ast.JoinedStr)}
    assert len(reasons) == 5
    assert [each for each in reasons if f"| *{each}* |" not in PAGE.read_text(encoding="utf-8")] == []
