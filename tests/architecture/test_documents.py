"""What the documents show is what runs."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.sources import ROOT, named, tracked
from tradesaga.sagas.diagram import draw_mermaid
from tradesaga.sagas.trade.definition import trade

FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
DOCUMENTS = [path for path in tracked() if path.suffix == ".md" and path.parts[-2] in {"docs", ROOT.name}]


def blocks(path: Path) -> list[str]:
    """List the programs of a document: every Python block of the README, elsewhere those marked `runnable`."""
    wanted = {"python", "python runnable"} if path.name == "README.md" else {"python runnable"}
    found = FENCE.finditer(path.read_text(encoding="utf-8"))
    return [match["body"] for match in found if match["info"].strip() in wanted]


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_the_programs_in_a_document_run(path: Path) -> None:
    """Blocks run in their order, later ones seeing what earlier ones made."""
    namespace: dict[str, Any] = {"__name__": path.stem}
    for number, block in enumerate(blocks(path), start=1):
        exec(compile(block, f"{path.name}, block {number}", "exec"), namespace)


def test_the_readme_shows_the_saga_as_code_and_as_it_is_drawn() -> None:
    """At least one program, and the diagram as the definition gives it today."""
    readme = ROOT / "README.md"

    assert blocks(readme)
    assert draw_mermaid(trade).strip() in readme.read_text(encoding="utf-8")


def test_links_between_documents_lead_somewhere() -> None:
    """A relative link names a file that is there."""
    link = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
    dead = [
        f"{named(path)}: {target}"
        for path in tracked()
        if path.suffix == ".md"
        for target in link.findall(path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]

    assert dead == []
