"""The fenced blocks of the project's pages."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tests.architecture.sources import ROOT, named, tracked

_FENCE: Final = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_INFO: Final = re.compile(r'(?P<language>[a-z]*)(?: title="(?P<title>[^"]+)")?')
_OUTSIDE: Final = ("tests",)
"""Folders whose pages are data of tests."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its fence, its language and title (empty where it has none), its text."""

    page: Path
    line: int
    language: str
    title: str
    body: str

    def __str__(self) -> str:
        """Return the place of the block, as an editor opens it."""
        return f"{named(self.page)}:{self.line}"


@cache
def pages() -> tuple[Path, ...]:
    """Return every page that a reader gets: those of the repository's folder and all below `docs`."""
    found = [path for path in tracked() if path.suffix == ".md"]
    return tuple(path for path in found if path.relative_to(ROOT).parts[0] not in _OUTSIDE)


@cache
def blocks() -> tuple[Block, ...]:
    """Return the blocks of all pages. Raises `ValueError` for a fence that is not `language title="..."`."""
    return tuple(block for page in pages() for block in blocks_of(page))


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    return [_block(page, text, match) for match in _FENCE.finditer(text)]


def prose(page: Path) -> str:
    """Return the text of a page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def _block(page: Path, text: str, match: re.Match[str]) -> Block:
    line = text.count("\n", 0, match.start()) + 1
    info = _INFO.fullmatch(match["info"].strip())
    if info is None:
        raise ValueError(f'{named(page)}:{line}: write the fence as ```language or ```language title="..."')
    body = "".join(part.removeprefix(match["indent"]) for part in match["body"].splitlines(keepends=True))
    return Block(page, line, info["language"], info["title"] or "", body)
