"""What the predecessor of this project promised, on real Kafka and PostgreSQL, with real services."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from tests.conftest import Stack
from tests.e2e.harness import Bench, open_bench
from tests.e2e.messages import Booked, Closed, Paid, Recalled, Refunded, Report, Shipped, Unbooked
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.messages.lifecycle import AttemptFailed, CompensationFailed, StepFailed, StepUnknown

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

FORTH = [("book", "forward"), ("pay", "forward")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench with everything running."""
    async with open_bench(stack.kafka, module_database_url, patience=1.0) as bench:
        await bench.serve_all()
        yield bench


async def test_basic_saga_success(bench: Bench) -> None:
    """A saga with a step of each kind runs to its end, each effect once."""
    saga_id = await bench.ask()
    found = await bench.settled(saga_id)
    assert found["state"] == "COMPLETED"
    assert json.loads(found["completed_steps"]) == ["book", "pay", "ship", "confirm", "close"]
    assert await bench.effects(saga_id) == [*FORTH, ("close", "forward")]
    assert await bench.calls(saga_id, "place") == 1


async def test_saga_failure_and_compensation(bench: Bench) -> None:
    """A refusal takes back what was done, last step first, and the saga ends ABORTED."""
    saga_id = await bench.ask(confirm="lost")
    found = await bench.settled(saga_id)
    assert found["state"] == "ABORTED"
    assert json.loads(found["compensated_steps"]) == ["book", "pay", "ship"]
    undone = [name for name in bench.tail.names(saga_id) if name in {"recalled", "refunded", "unbooked"}]
    assert undone == ["recalled", "refunded", "unbooked"]
    assert await bench.effects(saga_id) == [*FORTH, ("pay", "back"), ("book", "back")]


async def test_step_retry_three_attempts(bench: Bench) -> None:
    """A step that raises twice succeeds at its third attempt; only that one takes effect."""
    saga_id = await bench.ask(pay="fail:2")
    assert (await bench.settled(saga_id))["state"] == "COMPLETED"
    assert await bench.attempts(saga_id, "pay") == [1, 2, 3]
    failed = [AttemptFailed.from_wire(heard.value) for heard in bench.tail.of(saga_id, AttemptFailed)]
    assert [(fact.step, fact.attempt) for fact in failed] == [("pay", 1), ("pay", 2)]
    assert "as planned" in failed[0].reason
    assert Paid.from_wire((await bench.heard(saga_id, Paid))[0].value).attempt == 3
    assert await bench.effects(saga_id) == [*FORTH, ("close", "forward")]


async def test_step_timeout(bench: Bench) -> None:
    """A local step out of time has not happened; a remote one is unknown until the far side has been asked."""
    local, remote = await bench.ask(pay="hang"), await bench.ask(ship="hang", confirm="wait")
    assert (await bench.settled(local))["state"] == "ABORTED"
    (failed,) = bench.tail.of(local, StepFailed)
    assert StepFailed.from_wire(failed.value).reason == "no answer within 1 s"
    assert await bench.effects(local) == [("book", "forward"), ("book", "back")]
    assert (await bench.settled(remote))["state"] == "ABORTED"
    assert len(bench.tail.of(remote, StepUnknown)) == 1
    assert await bench.calls(remote, "place") == 1
    assert await bench.calls(remote, "recall") == 1


async def test_checkpoint_save_and_restore(bench: Bench) -> None:
    """All services end in the middle of a saga; new ones go on from where it stood, with its context."""
    saga_id = await bench.ask(confirm="wait")
    await bench.reaches(saga_id, "confirm", RowStatus.WAITING)
    await bench.stop()
    before = await bench.pool.fetchrow("SELECT * FROM saga WHERE saga_id = $1", saga_id)
    assert before is not None
    await bench.serve_all()
    await bench.say(saga_id, Report(report_id="late", kind="done"))
    after = await bench.settled(saga_id)
    assert after["state"] == "COMPLETED"
    assert json.loads(before["context"]).items() <= json.loads(after["context"]).items()
    assert await bench.effects(saga_id) == [*FORTH, ("close", "forward")]


async def test_partial_failure_compensation(bench: Bench) -> None:
    """Only what was done is taken back: a step that refused, and those behind it, are not."""
    saga_id = await bench.ask(pay="refuse")
    found = await bench.settled(saga_id)
    assert found["state"] == "ABORTED"
    assert json.loads(found["compensated_steps"]) == ["book"]
    assert bench.tail.of(saga_id, Unbooked)
    assert not bench.tail.of(saga_id, Refunded, Shipped, Recalled)


async def test_context_propagation(bench: Bench) -> None:
    """The last step sees what the start and the steps before it have said."""
    saga_id = await bench.ask(account="carol")
    assert (await bench.settled(saga_id))["state"] == "COMPLETED"
    closed = Closed.from_wire((await bench.heard(saga_id, Closed))[0].value)
    assert closed == Closed(account="carol", amount="10.5", ref=f"{saga_id}:ship")
    context = json.loads((await bench.heard(saga_id, Closed))[0].header("ts_context"))
    assert list(context) == ["asked", "booked", "paid", "shipped", "confirmed", "closed"]


async def test_metrics_tracking(bench: Bench) -> None:
    """Steps executed, failed, retried and compensated, and their durations, are counted as they happen."""
    figures = {
        "tradesaga_steps_executed_total": {"step": "book", "result": "done"},
        "tradesaga_step_attempts_failed_total": {"step": "pay", "direction": "forward"},
        "tradesaga_step_retries_total": {"step": "pay", "direction": "forward"},
        "tradesaga_steps_compensated_total": {"step": "pay", "result": "compensated"},
        "tradesaga_step_seconds_count": {"step": "pay", "result": "done"},
        "tradesaga_sagas_ended_total": {"outcome": "ABORTED"},
    }

    def read() -> dict[str, float]:
        labelled = {name: {"saga": bench.saga.name, **labels} for name, labels in figures.items()}
        return {name: REGISTRY.get_sample_value(name, labels) or 0 for name, labels in labelled.items()}

    before = read()
    await bench.settled(await bench.ask(pay="fail:1", ship="refuse"))
    assert {name: value - before[name] for name, value in read().items()} == dict.fromkeys(figures, 1)


async def test_saga_status_retrieval(bench: Bench) -> None:
    """The saga's row tells its state and its step while it runs and when it has ended."""
    saga_id = await bench.ask(confirm="wait")
    await bench.heard(saga_id, Shipped)
    running = await bench.settled(saga_id, "RUNNING")
    while json.loads(running["completed_steps"])[-1] != "ship":
        running = await bench.settled(saga_id, "RUNNING")
    assert running["current_step_index"] == 3
    assert running["created_at"] <= running["updated_at"] < running["deadline"]
    await bench.say(saga_id, Report(report_id="now", kind="done"))
    ended = await bench.settled(saga_id)
    assert (ended["state"], ended["current_step_index"], ended["name"]) == ("COMPLETED", 5, bench.saga.name)


async def test_compensation_continues_despite_failures(bench: Bench) -> None:
    """A compensation out of attempts is told, the next one is done all the same, and a person is needed."""
    saga_id = await bench.ask(ship="refuse", unpay="fail")
    found = await bench.settled(saga_id, "FAILED")
    assert json.loads(found["compensated_steps"]) == ["book"]
    (failed,) = bench.tail.of(saga_id, CompensationFailed)
    said = CompensationFailed.from_wire(failed.value)
    assert (said.step, said.attempts) == ("pay", 3)
    assert await bench.attempts(saga_id, "pay", "back") == [1, 2, 3]
    assert await bench.effects(saga_id) == [*FORTH, ("book", "back")]


async def test_concurrent_sagas(bench: Bench) -> None:
    """Sixty sagas at once, a third of them failing: each ends as it should, and none is done twice."""
    good = [await bench.ask() for _ in range(40)]
    bad = [await bench.ask(ship="refuse") for _ in range(20)]
    assert {row["state"] for row in await asyncio.gather(*map(bench.settled, good))} == {"COMPLETED"}
    assert {row["state"] for row in await asyncio.gather(*map(bench.settled, bad))} == {"ABORTED"}
    for saga_id in good:
        assert await bench.effects(saga_id) == [*FORTH, ("close", "forward")]
        assert len(bench.tail.of(saga_id, Booked)) == 1
    for saga_id in bad:
        assert await bench.effects(saga_id) == [*FORTH, ("pay", "back"), ("book", "back")]
