"""The trace of a start goes along with everything that is said of its saga."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.harness import Bench, open_bench
from tests.e2e.steps import BUSY
from tests.keys import KEYS
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.infra.telemetry.tracing import new_traceparent
from tradesaga.schemas.identity import saga_id as identify
from tradesaga.schemas.topics import starts_topic

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench with everything running, the front door included."""
    async with open_bench(stack.kafka, module_database_url, patience=BUSY) as bench:
        await bench.serve_all()
        await bench.run(Intake(bench.saga, KEYS)).ready()
        yield bench


@pytest.mark.parametrize(("plan", "state"), [({"pay": "fail:1"}, "COMPLETED"), ({"confirm": "lost"}, "ABORTED")])
async def test_one_trace_from_the_start_to_the_end(bench: Bench, plan: dict[str, str], state: str) -> None:
    """Facts, retries, commands and compensations keep the client's trace and flags, each as a span of its own."""
    parent = new_traceparent()
    value = m.Asked(idempotency_key=parent, plan=plan).to_wire()
    headers = [("traceparent", parent.encode()), ("tracestate", b"desk=7")]
    await (await bench.producer.send(starts_topic(bench.saga.name), b"any", value, headers))
    saga_id = identify(bench.saga.name, "alice", parent)
    assert (await bench.settled(saga_id))["state"] == state
    said = [heard.header("traceparent") for heard in bench.tail.of(saga_id)]
    assert len(said) >= 7
    assert {(each[:35], each[52:]) for each in said} == {(parent[:35], parent[52:])}
    assert len(set(said)) == len(said)
    assert {heard.header("tracestate") for heard in bench.tail.of(saga_id)} == {"desk=7"}
