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
    """Return every text of the shipped code, one a line; an ellipsis stands for each value that is put into it."""
    nodes = (node for path in shipped_files() for node in ast.walk(parsed(path)))
    return "\n".join(" ".join(_text(node).split()) for node in nodes if isinstance(node, ast.JoinedStr | ast.Constant))


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
