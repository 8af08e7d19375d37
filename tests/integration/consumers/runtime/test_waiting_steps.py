"""Waiting steps: they answer when trigger and report are both there, and barred only when the far side agrees."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.harness import Bench, open_bench
from tests.waiting import until
from tradesaga.consumers.runtime import waiting_steps
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.messages.lifecycle import Bar, Retry, StepBarred, StepContradicted, StepFailed

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench on which the far side's steps alone are run."""
    async with open_bench(stack.kafka, module_database_url, patience=0.3) as bench:
        await bench.serve(bench.kit.port)
        yield bench


def facts(**plan: str) -> bytes:
    """Give the context of a saga whose goods are shipped."""
    asked = m.Asked(idempotency_key="k", plan={"confirm": "wait", **plan}).to_wire()
    return b'{"asked":%s}' % asked


async def shipped(bench: Bench, saga_id: UUID | None = None, **plan: str) -> UUID:
    """Give the trigger of the waiting step, the order standing at the far side."""
    saga_id = saga_id or uuid4()
    event = m.Shipped(ref=f"{saga_id}:ship")
    await bench.far.place(event.ref)
    await bench.say(saga_id, event, context=facts(**plan)[:-1] + b',"shipped":%s}' % event.to_wire())
    return saga_id


async def told(bench: Bench, saga_id: UUID, report_id: str, kind: str) -> None:
    """Publish a report."""
    await bench.say(saga_id, m.Report(report_id=report_id, kind=kind), context=b"")


async def polled(bench: Bench, saga_id: UUID) -> None:
    """Wait until the far side has been polled."""

    async def asked() -> bool:
        return await bench.calls(saga_id, "poll") > 0

    await until(asked)


async def test_a_failed_one_waits_again_when_a_person_wants_it(bench: Bench) -> None:
    """Retried, a waiting step runs nothing: it waits for its report as before; its service stands."""
    saga_id = await shipped(bench)
    await bench.reaches(saga_id, "confirm", RowStatus.WAITING)
    await bench.pool.execute(
        "UPDATE step_execution SET status = $2, due = NULL WHERE saga_id = $1", saga_id, int(RowStatus.FAILED)
    )
    await bench.say(saga_id, Retry(step="confirm", round=2), step="confirm", round=2, context=facts())
    row = await bench.reaches(saga_id, "confirm", RowStatus.WAITING)
    assert (row["round"], row["due"] is not None) == (2, True)
    await told(bench, saga_id, "r1", "done")
    (confirmed,) = await bench.heard(saga_id, m.Confirmed)
    assert confirmed.header("ts_round") == "2"


async def test_an_unreadable_trigger_is_no_better_in_another_round(bench: Bench) -> None:
    """The step fails once more, for the new round; it stopped the whole service once."""
    saga_id = uuid4()
    await bench.say(saga_id, m.Lost(reason="x"), context=facts(), type=f"{bench.saga.name}.shipped.v1", step="")
    await bench.heard(saga_id, StepFailed)
    await bench.say(saga_id, Retry(step="confirm", round=2), step="confirm", round=2, context=facts())
    failed = await bench.heard(saga_id, StepFailed, 2)
    assert [heard.header("ts_round") for heard in failed] == ["1", "2"]
    assert bench.running[0].worker.health.ready


async def test_a_report_before_its_trigger_is_kept(bench: Bench) -> None:
    """A report finds no row and opens one; the step answers when the trigger comes."""
    saga_id = uuid4()
    await told(bench, saga_id, "r1", "done")
    row = await bench.reaches(saga_id, "confirm", RowStatus.WAITING)
    assert row["due"] is None
    await shipped(bench, saga_id)
    (confirmed,) = await bench.heard(saga_id, m.Confirmed)
    assert m.Confirmed.from_wire(confirmed.value).reports == 1


async def test_a_report_counts_once_by_its_own_id(bench: Bench) -> None:
    """Reports that come twice are one; the step answers at the terminal one, and once."""
    saga_id = await shipped(bench)
    for report_id, kind in (("r1", "progress"), ("r1", "progress"), ("r2", "done"), ("r2", "done")):
        await told(bench, saga_id, report_id, kind)
    (confirmed,) = await bench.heard(saga_id, m.Confirmed)
    assert m.Confirmed.from_wire(confirmed.value).reports == 2
    await bench.heard(saga_id, m.Report, 4)
    assert len(bench.tail.of(saga_id, m.Confirmed)) == 1


async def test_a_refusal_from_outside_is_answered(bench: Bench) -> None:
    """A terminal report that says no makes the step refuse."""
    saga_id = await shipped(bench)
    await told(bench, saga_id, "r1", "lost")
    await bench.heard(saga_id, m.Lost)


async def test_the_far_side_is_polled_when_reports_stay_away(bench: Bench) -> None:
    """Without any report the far side is asked after the step's timeout, and again, until it knows."""
    saga_id = await shipped(bench)
    await polled(bench, saga_id)
    await bench.far.report(f"{saga_id}:ship", "r1", "done")
    await bench.heard(saga_id, m.Confirmed)
    assert bench.tail.of(saga_id, m.Report) == []


async def test_a_bar_cancels_first_and_answers_then(bench: Bench) -> None:
    """A bar has the far side close the order; barred is said only when it can no longer be filled."""
    saga_id = await shipped(bench)
    await bench.reaches(saga_id, "confirm", RowStatus.WAITING)
    await bench.say(saga_id, Bar(step="confirm"), step="confirm", context=facts())
    await bench.heard(saga_id, StepBarred)
    assert await bench.far.state(f"{saga_id}:ship") == "cancelled"
    assert await bench.calls(saga_id, "bar") >= 1


async def test_a_bar_that_meets_a_fill_answers_with_the_fill(bench: Bench) -> None:
    """The far side had filled the order before the cancel came: the step is done, not barred."""
    saga_id = await shipped(bench)
    await bench.far.report(f"{saga_id}:ship", "r1", "done")
    await bench.say(saga_id, Bar(step="confirm"), step="confirm", context=facts())
    await bench.heard(saga_id, m.Confirmed)
    assert bench.tail.of(saga_id, StepBarred) == []


async def test_a_bar_without_a_row_asks_the_far_side_too(bench: Bench) -> None:
    """No trigger has come, yet the order may stand: the far side is asked; a trigger behind it gets the same answer."""
    saga_id = uuid4()
    await bench.far.place(f"{saga_id}:ship")
    await bench.say(saga_id, Bar(step="confirm"), step="confirm", context=facts())
    await bench.heard(saga_id, StepBarred)
    assert await bench.far.state(f"{saga_id}:ship") == "cancelled"
    await shipped(bench, saga_id)
    barred = await bench.heard(saga_id, StepBarred, 2)
    assert barred[0].record == barred[1].record


async def test_a_bar_that_fails_at_the_far_side_is_tried_again(bench: Bench) -> None:
    """While the far side does not answer the bar, nothing is answered; the bar goes on."""
    saga_id = await shipped(bench, bar="fail")
    await bench.say(saga_id, Bar(step="confirm"), step="confirm", context=facts(bar="fail"))
    await bench.heard(saga_id, StepBarred)
    assert await bench.calls(saga_id, "bar") >= 2


async def test_a_report_during_a_bar_answers_it(bench: Bench) -> None:
    """A bar alone opened the row; a fill that is reported meanwhile is the answer."""
    saga_id = uuid4()
    await told(bench, saga_id, "r1", "done")
    await bench.reaches(saga_id, "confirm", RowStatus.WAITING)
    await bench.say(saga_id, Bar(step="confirm"), step="confirm", context=facts())
    await bench.heard(saga_id, m.Confirmed)
    assert await bench.calls(saga_id, "bar") == 0


@pytest.mark.parametrize("first", ["done", "lost", "bar"])
async def test_a_contradiction_is_published_once(bench: Bench, first: str) -> None:
    """A fill after all, or a bust, is told once for its own id, whatever the step has answered."""
    saga_id = await shipped(bench)
    if first == "bar":
        await bench.say(saga_id, Bar(step="confirm"), step="confirm", context=facts())
    else:
        await told(bench, saga_id, "r1", first)
    await bench.heard(saga_id, {"done": m.Confirmed, "lost": m.Lost, "bar": StepBarred}[first])
    contradiction = "busted" if first == "done" else "done"
    for report_id, kind in (("x1", contradiction), ("x1", contradiction), ("x2", "progress"), ("x3", "busted")):
        await told(bench, saga_id, report_id, kind)
    said = await bench.heard(saga_id, StepContradicted, 2)
    venue_ids = [StepContradicted.from_wire(heard.value).venue_id for heard in said]
    assert venue_ids == ["x1", "x3"]


async def test_a_bug_in_the_conclusion_leaves_the_step_waiting(bench: Bench) -> None:
    """A conclusion that raises ends nothing: the step waits on, is polled, and other sagas are not held up."""
    bad, good = await shipped(bench), await shipped(bench)
    await told(bench, bad, "r1", "bug")
    await told(bench, good, "r1", "done")
    await bench.heard(good, m.Confirmed)
    await polled(bench, bad)
    assert bench.tail.of(bad, m.Confirmed, m.Lost, StepFailed) == []
    row = await bench.row(bad, "confirm")
    assert row is not None
    assert row["status"] == RowStatus.WAITING


async def test_reports_beyond_a_limit_are_taken_from_a_poll_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends more than a row keeps finds them in the dead letters; what the far side itself says counts."""
    monkeypatch.setattr(waiting_steps, "REPORTS_LIMIT", 100)
    saga_id = uuid4()
    for number in range(9):
        await told(bench, saga_id, f"{number}" * 100, "progress")

    async def refused() -> bool:
        errors = [dict(heard.headers).get("ts_dlt_error_message", b"") for heard in bench.tail.of(saga_id)]
        return any(b"takes more from a poll alone" in error for error in errors)

    await until(refused)
    row = await bench.row(saga_id, "confirm")
    assert row is not None
    assert len(row["reports"]) < 2000
    await shipped(bench, saga_id)
    await bench.far.report(f"{saga_id}:ship", "end", "done")
    [confirmed] = await bench.heard(saga_id, m.Confirmed)
    assert m.Confirmed.from_wire(confirmed.value).reports < 10
