"""The pictures of the documents, drawn from the code: `python -m tests.pictures` draws them anew."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.pictures import architecture, concepts

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
PICTURES: Final[Mapping[Path, Callable[[], str]]] = {
    IMAGES / "architecture.svg": architecture.draw,
    IMAGES / "concepts.svg": concepts.draw,
}
