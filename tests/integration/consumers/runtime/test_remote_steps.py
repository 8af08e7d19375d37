"""Remote steps: intent first, unknown when unanswered, asked and never repeated while the far side may still act."""

from collections.abc import AsyncIterator
from itertools import pairwise
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.harness import Bench, open_bench
from tests.waiting import until
from tradesaga.consumers.runtime.processor import SKEW_NS
from tradesaga.infra.clock import parse_time
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import splice
from tradesaga.schemas.messages.lifecycle import (
    AttemptFailed,
    Bar,
    CompensationFailed,
    StepBarred,
    StepFailed,
    StepUnknown,
)

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

PATIENCE = 2.0
"""Seconds of an attempt; what is to come in one must do so on a busy machine too."""
VOID_AFTER = PATIENCE + SKEW_NS / 1e9
"""Seconds after an attempt's start at which "not found" is believed."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench on which the far side's steps alone are run."""
    async with open_bench(stack.kafka, module_database_url, patience=PATIENCE) as bench:
        await bench.serve(bench.kit.port)
        yield bench


async def ship(bench: Bench, saga_id: UUID | None = None, **plan: str) -> UUID:
    """Give the trigger of the remote step, under a plan that keeps the step behind it waiting."""
    saga_id = saga_id or uuid4()
    asked = m.Asked(idempotency_key=str(saga_id), plan={"confirm": "wait", **plan})
    paid = m.Paid(amount="10.5", attempt=1)
    context = splice(splice(b"", m.Asked.NAME, asked.to_wire()), m.Paid.NAME, paid.to_wire())
    await bench.say(saga_id, paid, context=context)
    return saga_id


async def test_intent_is_committed_before_the_call(bench: Bench) -> None:
    """While the far side is being called the row says INTENT, with the input and a time to take it up again."""
    saga_id = await ship(bench, ship="hang")

    async def called() -> bool:
        return await bench.calls(saga_id, "place") == 1

    await until(called)
    row = await bench.row(saga_id, "ship")
    assert row is not None
    assert row["status"] == RowStatus.INTENT
    assert row["input"] is not None
    assert row["due"] is not None


async def test_calls_of_other_sagas_go_on_beside_a_slow_one(bench: Bench) -> None:
    """Sagas that come behind one that hangs are done before it has run out of time."""
    slow = await ship(bench, ship="hang")
    await bench.reaches(slow, "ship", RowStatus.INTENT)
    done = [(await bench.heard(saga_id, m.Shipped))[0] for saga_id in [await ship(bench) for _ in range(10)]]
    (late,) = await bench.heard(slow, m.Shipped)
    assert min(shipped.header("ce_time") for shipped in done) < late.header("ce_time")


async def test_an_unanswered_call_is_told_once_and_found_by_asking(bench: Bench) -> None:
    """The call took effect and went unanswered: unknown, once; then the query finds it, and nothing is sent again."""
    saga_id = await ship(bench, ship="lost")
    (shipped,) = await bench.heard(saga_id, m.Shipped)
    assert m.Shipped.from_wire(shipped.value).ref == f"{saga_id}:ship"
    assert len(bench.tail.of(saga_id, StepUnknown)) == 1
    assert await bench.calls(saga_id, "place") == 1
    assert await bench.calls(saga_id, "query") >= 1


async def test_queries_that_go_unanswered_are_no_news(bench: Bench) -> None:
    """While the far side stays dark it is asked on and on; the outcome is told unknown once for the attempt."""
    saga_id = await ship(bench, ship="dark:3")
    await bench.heard(saga_id, StepUnknown)

    async def asked() -> bool:
        return await bench.calls(saga_id, "query") >= 3

    await until(asked)
    assert await bench.calls(saga_id, "place") == 1
    assert len(bench.tail.of(saga_id, StepUnknown)) == 1


async def test_not_found_is_believed_only_once_the_attempt_is_void(bench: Bench) -> None:
    """Each new call comes after the expiry of the one before and the skew; after the last one the step has failed."""
    saga_id = await ship(bench, ship="dropped")
    (failed,) = await bench.heard(saga_id, StepFailed)
    assert StepFailed.from_wire(failed.value).attempts == 3
    assert len(bench.tail.of(saga_id, StepUnknown)) == 3
    placed = await bench.pool.fetch(
        "SELECT extract(epoch FROM at)::float8 AS at, expires FROM far_call WHERE key = $1 AND kind = 'place' "
        "ORDER BY id", f"{saga_id}:ship",
    )  # fmt: skip
    assert len(placed) == 3
    for first, second in pairwise(placed):
        assert second["at"] >= first["expires"] / 1e9 + SKEW_NS / 1e9
    assert bench.tail.of(saga_id, m.Shipped) == []


async def test_a_call_that_raises_has_not_happened(bench: Bench) -> None:
    """An exception means again: the attempts follow each other by the backoff alone."""
    saga_id = await ship(bench, ship="fail:2")
    (shipped,) = await bench.heard(saga_id, m.Shipped)
    assert shipped.header("ts_attempt") == "3"
    assert len(bench.tail.of(saga_id, AttemptFailed)) == 2
    assert await bench.calls(saga_id, "query") == 0


async def test_an_answer_of_the_wrong_kind_is_asked_after(bench: Bench) -> None:
    """A handler that returns another step's event says nothing of its effect: the far side is asked, not called."""
    saga_id = await ship(bench, ship="wrong")
    await bench.heard(saga_id, m.Shipped)
    (unknown,) = bench.tail.of(saga_id, StepUnknown)
    assert "returned Booked; 'ship' answers with Shipped" in StepUnknown.from_wire(unknown.value).reason
    assert await bench.calls(saga_id, "place") == 1


async def test_a_call_that_is_cancelled_from_inside_is_asked_after(bench: Bench) -> None:
    """A library that raises CancelledError in a call leaves the outcome unknown, and the service running."""
    saga_id = await ship(bench, ship="cancelled")
    await bench.heard(saga_id, m.Shipped)
    assert len(bench.tail.of(saga_id, StepUnknown)) == 1
    assert await bench.calls(saga_id, "place") == 1


async def test_a_bar_of_an_intent_waits_for_the_truth(bench: Bench) -> None:
    """A bar during the call is answered with what the call turns out to have done, never barred blindly."""
    saga_id = await ship(bench, ship="hang")
    await bench.reaches(saga_id, "ship", RowStatus.INTENT)
    await bench.say(saga_id, Bar(step="ship"), step="ship", context=b"")
    await bench.heard(saga_id, m.Shipped)
    assert bench.tail.of(saga_id, StepBarred, StepUnknown) == []


async def test_a_bar_of_an_intent_that_never_happened_closes_it_once_void(bench: Bench) -> None:
    """A bar on a call without an effect is answered barred, but only after the call is void; nothing is sent again."""
    saga_id = await ship(bench, ship="dropped")
    (unknown,) = await bench.heard(saga_id, StepUnknown)
    await bench.say(saga_id, Bar(step="ship"), step="ship", context=b"")
    (barred,) = await bench.heard(saga_id, StepBarred)
    waited = parse_time(barred.header("ce_time")) / 1e9 - int(unknown.header("ts_started")) / 1e9
    assert waited >= VOID_AFTER
    assert await bench.calls(saga_id, "place") == 1


async def test_a_duplicate_trigger_of_an_intent_asks(bench: Bench) -> None:
    """A trigger that comes again after its call went unanswered has the far side asked, not called."""
    saga_id = await ship(bench, ship="dark:2")
    await bench.heard(saga_id, StepUnknown)
    (trigger,) = bench.tail.of(saga_id, m.Paid)
    await bench.repeat(trigger)

    async def asked() -> bool:
        return await bench.calls(saga_id, "query") >= 2

    await until(asked)
    assert await bench.calls(saga_id, "place") == 1


async def test_a_remote_compensation_is_called_until_it_answers(bench: Bench) -> None:
    """A recall that raises is called again; a second command while it runs brings no second run."""
    saga_id = await ship(bench)
    (shipped,) = await bench.heard(saga_id, m.Shipped)
    asked = m.Asked(idempotency_key="k", plan={"unship": "fail:1"}).to_wire()
    facts = b'{"asked":%s,"shipped":%s}' % (asked, shipped.value)
    for _ in range(2):
        await bench.say(saga_id, m.Recall(), step="ship", context=facts)
    (recalled, *_) = await bench.heard(saga_id, m.Recalled)
    assert recalled.header("ts_attempt") == "2"
    assert await bench.calls(saga_id, "recall") == 2
    assert await bench.far.state(f"{saga_id}:ship") == "recalled"


async def test_an_impossible_compensation_is_not_tried_again(bench: Bench) -> None:
    """A recall that says it can never be done ends at its first attempt."""
    saga_id = await ship(bench)
    (shipped,) = await bench.heard(saga_id, m.Shipped)
    asked = m.Asked(idempotency_key="k", plan={"unship": "impossible"}).to_wire()
    await bench.say(saga_id, m.Recall(), step="ship", context=b'{"asked":%s,"shipped":%s}' % (asked, shipped.value))
    (failed,) = await bench.heard(saga_id, CompensationFailed)
    assert CompensationFailed.from_wire(failed.value).attempts == 1
