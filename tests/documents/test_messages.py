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


@pytest.mark.parametrize("quote", sorted({" ".join(each.split()) for each in _QUOTE.findall(prose(PAGE))}))
def test_a_quoted_message_is_printed(quote: str) -> None:
    """An operator searches the page for the words that the screen shows."""
    assert [part for part in map(str.strip, _VALUE.split(quote)) if part not in texts()] == []


def test_messages_are_quoted() -> None:
    """The page quotes many, and one that is not printed would be noticed."""
    assert len(_QUOTE.findall(prose(PAGE))) > 20
    assert "no such message is printed " + "anywhere" not in texts()
