"""The stage of every test here."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.conftest import Stack
from tests.recovery.stage import Stage, open_stage


@pytest_asyncio.fixture
async def stage(stack: Stack, database_url: str) -> AsyncIterator[Stage]:
    """Give a stage whose far side is in the test's own database."""
    async with open_stage(stack, database_url) as stage:
        yield stage
