"""Links of pages lead somewhere, and the site that is built of them needs nothing else."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.architecture.sources import PACKAGES, ROOT, named, tracked
from tests.documents.blocks import pages, prose
from tradesaga.sagas.diagram import draw_mermaid
from tradesaga.sagas.trade.definition import trade

LINK: Final = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
FILE: Final = re.compile(rf"`((?:{'|'.join((*PACKAGES, 'tests', 'docs'))})/[\w./-]*)(?:::\w+)?`")
FETCHED: Final = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(?:https?:)?//|<link\b[^>]*\bhref=\"(?:https?:)?//"
)
"""What a browser would fetch from elsewhere by itself."""


@pytest.mark.parametrize("page", pages(), ids=named)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """A relative link names a file of the repository, and a heading of it."""
    for target, anchor in LINK.findall(prose(page)):
        file = page.parent / target if target else page
        assert file.exists(), f"no file {target}"
        assert not anchor or anchor in anchors(file), f"no heading {target}#{anchor}"


@pytest.mark.parametrize("page", pages(), ids=named)
def test_files_that_sentences_name_exist(page: Path) -> None:
    """A path in backticks is one of the repository's; CHANGELOG and decisions speak of their own time."""
    if page.name == "CHANGELOG.md" or page.parent.name == "decisions":
        return
    missing = [path for path in FILE.findall(prose(page)) if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("page", pages(), ids=named)
def test_a_placeholder_is_not_read_as_a_tag(page: Path) -> None:
    """`<saga>` outside of backticks would vanish from the page; it is written with a backslash."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    assert re.findall(r"(?<!\\)<(?!br>)/?[a-z]+>", text) == []


def test_the_readme_shows_the_saga_as_it_is_drawn() -> None:
    """The diagram is the one that the definition gives today."""
    assert draw_mermaid(trade).strip() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    """Fonts, scripts, style sheets and pictures are all its own."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    built = sorted(tmp_path.rglob("*.html"))
    documents = [page for page in tracked() if page.suffix == ".md" and page.is_relative_to(ROOT / "docs")]
    assert len(built) == len(documents) + 1  # the page of what is not found
    assert [str(page) for page in built if FETCHED.search(page.read_text(encoding="utf-8"))] == []
    assert [str(page) for page in built if unread_marks(page.read_text(encoding="utf-8"))] == []


def unread_marks(html: str) -> list[str]:
    """Return the lines of paragraphs that were meant as items of a list or as rows of a table."""
    paragraphs = re.findall(r"<p>(.*?)</p>", html, re.DOTALL)
    return [line for each in paragraphs for line in re.findall(r"^(?:\* |\d+\. |\| ).*", each, re.MULTILINE)]


def test_a_list_that_was_not_read_as_one_is_noticed() -> None:
    """The site needs an empty line before a list, and four spaces for what belongs to an item."""
    assert unread_marks("<p>first:\n* one</p><p>2 * 3</p>") == ["* one"]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    return {slug(heading) for heading in HEADING.findall(prose(page))}


def slug(heading: str) -> str:
    """Return the anchor of a heading: lower case, hyphens for spaces, no other signs."""
    return re.sub(r"[\s]", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())
