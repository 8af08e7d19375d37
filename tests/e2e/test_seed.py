"""The eleven of the seed."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e.harness import Bench, open_bench

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench with everything running."""
    async with open_bench(stack.kafka, module_database_url) as bench:
        await bench.serve_all()
        yield bench


async def test_basic_saga_success(bench: Bench) -> None:
    """A saga of five steps runs to its end, each effect once."""
    saga_id = await bench.ask()
    found = await bench.settled(saga_id)
    assert found["state"] == "COMPLETED"
    assert await bench.effects(saga_id) == [("book", "forward"), ("pay", "forward"), ("close", "forward")]
