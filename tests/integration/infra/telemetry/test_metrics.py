"""What a process shows of its step path to whoever scrapes it."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e.harness import Bench, open_bench
from tests.e2e.steps import BUSY
from tradesaga.infra.local_stack.ports import free_port
from tradesaga.infra.telemetry.health import serve_probes

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench with everything running."""
    async with open_bench(stack.kafka, module_database_url, patience=BUSY) as bench:
        await bench.serve_all()
        yield bench


def scrape(port: int) -> dict[str, float]:
    """Give the samples of /metrics by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for line in lines if line[:1] != "#" for name, _, value in [line.rpartition(" ")]}


async def test_batches_rows_and_calls_are_counted(bench: Bench) -> None:
    """A saga leaves its batches, their records and seconds, its outbox rows by topic, and no call under way."""
    await bench.settled(await bench.ask())
    port, name = free_port(), bench.saga.name
    async with serve_probes("127.0.0.1", port):
        shown = await asyncio.to_thread(scrape, port)
    desk, port_group = f"{name}-desk", f"{name}-port"
    assert shown[f'tradesaga_batch_records_sum{{group="{desk}"}}'] >= 3
    assert shown[f'tradesaga_batch_seconds_count{{group="{desk}"}}'] >= 3
    assert shown[f'tradesaga_batch_seconds_sum{{group="{name}-log"}}'] > 0
    assert shown[f'tradesaga_outbox_rows_total{{group="{desk}",topic="{name}.events"}}'] == 3
    assert shown[f'tradesaga_outbox_rows_total{{group="{port_group}",topic="{name}.events"}}'] == 2
    assert shown[f'tradesaga_handlers_in_flight{{group="{port_group}"}}'] == 0
