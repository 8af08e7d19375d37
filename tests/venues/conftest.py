"""A paper venue for each test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.venues.paper_process import PaperProcess, small_market


@pytest.fixture
def paper(tmp_path: Path) -> Iterator[PaperProcess]:
    """Run a venue with one small market that holds still."""
    process = PaperProcess(tmp_path, small_market(tmp_path)).start()
    yield process
    process.stop()
