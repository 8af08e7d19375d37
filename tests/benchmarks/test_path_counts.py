"""What the step path does, counted exactly: a change that makes a saga dearer fails here, on the busiest machine too.

The figures are what the code does now; one that has become smaller is to be taken over.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import orjson
import pytest
import pytest_asyncio

from tests.benchmarks import noop
from tests.conftest import Stack
from tests.e2e.direct import Direct, direct
from tests.e2e.harness import open_bench
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.message import Command, Event, Message

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]
EACH = 20
"""Sagas whose messages of one kind meet in a batch."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def steps(stack: Stack, module_database_url: str) -> AsyncIterator[Direct]:
    """Give the participant of the saga that does nothing, to be driven by hand."""
    async with (
        open_bench(stack.kafka, module_database_url) as bench,
        direct(bench, StepProcessor(noop.steps)) as driven,
    ):
        driven.saga = noop.bench.name
        # The driver asks once for the types of what it inserts, and of what it updates.
        saga_id = uuid4()
        await driven.judge(driven.record(saga_id, _request()))
        await driven.judge(driven.record(saga_id, noop.ValidatedBack(), step="validate_order"))
        yield driven


def _request() -> noop.BenchRequested:
    return noop.BenchRequested(
        idempotency_key="k", account="A-1001", symbol="AAPL", side="BUY", quantity="100", limit="101.25"
    )


def _events() -> Sequence[Event]:
    """Give the triggers of the five steps."""
    answer: dict[str, Any] = {"ref": "r", "qty": "100", "px": "101.25"}
    return (
        _request(), noop.Validated(**answer), noop.Reserved(**answer), noop.Placed(**answer), noop.Confirmed(**answer),
    )  # fmt: skip


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count what is decoded and encoded from now on."""
    counted: Counter[str] = Counter()

    def watch(owner: Any, name: str) -> None:
        whole = getattr(owner, name)
        function = getattr(whole, "__func__", whole)

        def counting(*arguments: Any, **named: Any) -> Any:
            counted[name] += 1
            return function(*arguments, **named)

        monkeypatch.setattr(owner, name, classmethod(counting) if function is not whole else counting)

    for owner, name in (
        (Message, "from_wire"), (Message, "to_wire"), (Envelope, "from_headers"), (Envelope, "to_headers"),
        (orjson, "loads"), (orjson, "dumps"), (json, "loads"), (json, "dumps"),
    ):  # fmt: skip
        watch(owner, name)
    return counted


async def test_a_batch_of_all_steps_takes_this_many_statements(steps: Direct) -> None:
    """Eight for the batch, and two of each step's savepoint: a saga costs none of its own."""
    batch = [steps.record(uuid4(), event) for event in _events() for _ in range(EACH)]
    assert len(await steps.judge(*batch)) == 5 * EACH
    assert len(steps.statements) == 8 + 2 * 5, steps.statements


async def test_a_message_is_decoded_and_encoded_this_often(steps: Direct, calls: Counter[str]) -> None:
    """A step reads its trigger once and writes its answer once; one more call writes the answer's headers as text."""
    batch = [steps.record(uuid4(), event) for event in _events() for _ in range(EACH)]
    calls.clear()
    await steps.judge(*batch)
    assert calls == dict.fromkeys(("from_headers", "from_wire", "to_wire", "to_headers", "dumps"), 5 * EACH)


async def test_taking_back_costs_no_more_than_going_forward(steps: Direct, calls: Counter[str]) -> None:
    """The three compensations of many sagas in one batch: as many statements and as much coding a message."""
    sagas = [uuid4() for _ in range(EACH)]
    await steps.judge(*(steps.record(saga_id, event) for event in _events()[:3] for saga_id in sagas))
    backs: Sequence[tuple[Command, str]] = (
        (noop.PlacedBack(), "place_order"), (noop.ReservedBack(), "reserve_funds"),
        (noop.ValidatedBack(), "validate_order"),
    )  # fmt: skip
    batch = [steps.record(saga_id, back, step=name) for back, name in backs for saga_id in sagas]
    calls.clear()
    assert len(await steps.judge(*batch)) == 3 * EACH
    assert len(steps.statements) == 8 + 2 * 3, steps.statements
    once = dict.fromkeys(("from_headers", "from_wire", "to_wire", "to_headers"), 3 * EACH)
    # The command's headers are kept in its row as text, and so are the answer's.
    assert calls == {**once, "dumps": 2 * 3 * EACH}
