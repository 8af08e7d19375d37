"""A paper venue for each test that asks for one, and adapters that are closed whatever happens."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.infra.paper_exchange.process import KEY, SECRET, PaperProcess, small_market
from tradesaga.infra.venues.ccxt_adapter import CcxtVenue
from tradesaga.infra.venues.ccxt_client import VenueAddress

Connect = Callable[..., CcxtVenue]


@pytest.fixture
def paper(tmp_path: Path) -> Iterator[PaperProcess]:
    """Run a venue with one small market that holds still."""
    process = PaperProcess(tmp_path, small_market(tmp_path)).start()
    yield process
    process.stop()


@pytest.fixture
async def connect(paper: PaperProcess) -> AsyncIterator[Connect]:
    """Connect adapters to the venue's desk account, or as otherwise told."""
    opened: list[CcxtVenue] = []

    def open_one(key: str = KEY, secret: str = SECRET, timeout: float = 20.0) -> CcxtVenue:
        opened.append(CcxtVenue(VenueAddress(paper.url, key, secret, timeout=timeout)))
        return opened[-1]

    yield open_one
    for venue in opened:
        await venue.close()
