"""What a message meets at the owner of a local step: each reaction, through the real runtime."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.harness import Bench, open_bench
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.messages.lifecycle import (
    AttemptFailed,
    Bar,
    CompensationFailed,
    Retry,
    StepBarred,
    StepFailed,
)

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench on which the local steps alone are run."""
    async with open_bench(stack.kafka, module_database_url) as bench:
        await bench.serve(bench.kit.desk)
        yield bench


def context(**plan: str) -> bytes:
    """Give the context of a saga that has been asked for and paid."""
    asked = m.Asked(idempotency_key="k", plan=plan).to_wire()
    return b'{"asked":%s,"paid":%s}' % (asked, m.Paid(amount="10.5", attempt=1).to_wire())


async def test_a_duplicate_trigger_gets_the_same_answer(bench: Bench) -> None:
    """The same start again brings the same answer, byte for byte, and no second effect."""
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Paid)
    (start,) = bench.tail.of(saga_id, m.Asked)
    await bench.repeat(start)
    booked = await bench.heard(saga_id, m.Booked, 2)
    assert booked[0].record == booked[1].record
    paid = await bench.heard(saga_id, m.Paid, 2)
    assert paid[0].record == paid[1].record
    assert await bench.effects(saga_id) == [("book", "forward"), ("pay", "forward")]


async def test_another_request_under_the_same_id_starts_nothing(bench: Bench) -> None:
    """The first step emits nothing for a start that differs from the one it has answered."""
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Paid)
    await bench.ask(saga_id, account="mallory")
    (start, other) = await bench.heard(saga_id, m.Asked, 2)
    assert start.value != other.value
    await bench.repeat(start)
    await bench.heard(saga_id, m.Booked, 2)
    assert len(bench.tail.of(saga_id, m.Booked)) == 2
    assert await bench.effects(saga_id) == [("book", "forward"), ("pay", "forward")]


async def test_a_bar_before_its_trigger_closes_the_step(bench: Bench) -> None:
    """A bar with no row is a tombstone: the trigger behind it is answered barred, and its effect is not run."""
    saga_id = uuid4()
    await bench.say(saga_id, Bar(step="pay"), step="pay", context=context())
    await bench.heard(saga_id, StepBarred)
    await bench.ask(saga_id)
    barred = await bench.heard(saga_id, StepBarred, 2)
    assert barred[0].record == barred[1].record
    assert await bench.effects(saga_id) == [("book", "forward")]
    assert await bench.attempts(saga_id, "pay") == []


async def test_a_bar_after_the_answer_gets_the_answer(bench: Bench) -> None:
    """A bar that comes too late brings the true outcome again."""
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Paid)
    await bench.say(saga_id, Bar(step="pay"), step="pay", context=context())
    paid = await bench.heard(saga_id, m.Paid, 2)
    assert paid[0].record == paid[1].record
    assert not bench.tail.of(saga_id, StepBarred)


async def test_a_compensation_runs_once(bench: Bench) -> None:
    """A command that comes twice takes the step back once and is answered the same twice."""
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Paid)
    for _ in range(2):
        await bench.say(saga_id, m.Refund(), context=context(), step="pay")
    refunded = await bench.heard(saga_id, m.Refunded, 2)
    assert refunded[0].record == refunded[1].record
    assert m.Refunded.from_wire(refunded[0].value).amount == "10.5"
    assert (await bench.effects(saga_id)).count(("pay", "back")) == 1


async def test_a_compensation_has_attempts_of_its_own(bench: Bench) -> None:
    """A compensation that raises is tried again; its failures are told as attempts backward."""
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Paid)
    await bench.say(saga_id, m.Refund(), context=context(unpay="fail:2"), step="pay")
    (refunded,) = await bench.heard(saga_id, m.Refunded)
    assert refunded.header("ts_attempt") == "3"
    failed = [AttemptFailed.from_wire(heard.value) for heard in bench.tail.of(saga_id, AttemptFailed)]
    assert [(fact.direction, fact.attempt) for fact in failed] == [("back", 1), ("back", 2)]


async def test_a_failed_compensation_runs_again_in_a_higher_round(bench: Bench) -> None:
    """The same round gets the same failure again; a higher one begins with fresh attempts."""
    saga_id = await bench.ask()
    await bench.heard(saga_id, m.Paid)
    for _ in range(2):
        await bench.say(saga_id, m.Refund(), context=context(unpay="impossible"), step="pay")
    failed = await bench.heard(saga_id, CompensationFailed, 2)
    assert failed[0].record == failed[1].record
    assert CompensationFailed.from_wire(failed[0].value).reason == "it is beyond recall"
    await bench.say(saga_id, m.Refund(), context=context(), step="pay", round=2)
    (refunded,) = await bench.heard(saga_id, m.Refunded)
    assert refunded.header("ts_round") == "2"


async def test_a_compensation_without_its_step_alerts(bench: Bench) -> None:
    """There is nothing to take back where no row is, or where the step was refused: that is told, never ignored."""
    nothing, refused = uuid4(), await bench.ask(pay="refuse")
    await bench.heard(refused, m.PayRefused)
    for saga_id in (nothing, refused):
        await bench.say(saga_id, m.Refund(), context=context(), step="pay")
    (first,), (second,) = await bench.heard(nothing, CompensationFailed), await bench.heard(refused, CompensationFailed)
    assert CompensationFailed.from_wire(first.value).reason == "there is nothing to compensate: no row"
    assert CompensationFailed.from_wire(second.value).reason == "there is nothing to compensate: REFUSED"


async def test_exhausted_attempts_end_the_step(bench: Bench) -> None:
    """After its last attempt the step has failed for good, and says so again to whoever asks."""
    saga_id = await bench.ask(pay="fail")
    (failed,) = await bench.heard(saga_id, StepFailed)
    said = StepFailed.from_wire(failed.value)
    assert (said.step, said.attempts, said.reason) == ("pay", 3, "PlannedError: as planned")
    (trigger,) = bench.tail.of(saga_id, m.Booked)
    await bench.repeat(trigger)
    again = await bench.heard(saga_id, StepFailed, 2)
    assert again[0].record == again[1].record
    assert await bench.effects(saga_id) == [("book", "forward")]
    assert await bench.attempts(saga_id, "pay") == [1, 2, 3]


@pytest.mark.parametrize("word", ["sql", "slow-sql", "hang", "cancelled"])
async def test_a_bad_handler_harms_no_other(bench: Bench, word: str) -> None:
    """What breaks the SQL or runs out of time loses its own savepoint; sagas beside it go on."""
    bad = await bench.ask(pay=word)
    good = [await bench.ask() for _ in range(20)]
    for saga_id in good:
        await bench.heard(saga_id, m.Paid)
    (failed,) = await bench.heard(bad, StepFailed)
    wanted = {"sql": "DivisionByZeroError", "cancelled": "cancelled from inside"}
    assert wanted.get(word, "no answer within 0.5 s") in StepFailed.from_wire(failed.value).reason
    assert await bench.effects(bad) == [("book", "forward")]


async def test_an_answer_too_large_for_the_context_is_undone(bench: Bench) -> None:
    """An answer past the context's limit fails the step with a clear reason, and its effect is rolled back."""
    saga_id = await bench.ask(book="big")
    (failed,) = await bench.heard(saga_id, StepFailed)
    assert "passes the limit of 65536" in StepFailed.from_wire(failed.value).reason
    assert await bench.effects(saga_id) == []


async def test_a_failed_step_runs_again_when_an_operator_says_so(bench: Bench) -> None:
    """A retry in a higher round runs the step from its stored input; one in the same round brings its answer again."""
    saga_id = uuid4()
    facts = context(close="shut")[:-1] + b',"shipped":%s}' % m.Shipped(ref="r").to_wire()
    await bench.say(saga_id, m.Confirmed(reports=1), context=facts)
    (failed,) = await bench.heard(saga_id, StepFailed)
    await bench.say(saga_id, Retry(step="close", round=1), step="close", context=b"")
    again = await bench.heard(saga_id, StepFailed, 2)
    assert again[0].record == failed.record == again[1].record
    await bench.far.place(f"{saga_id}:open")
    await bench.say(saga_id, Retry(step="close", round=2), step="close", round=2, context=b"")
    (closed,) = await bench.heard(saga_id, m.Closed)
    assert (closed.header("ts_round"), m.Closed.from_wire(closed.value).ref) == ("2", "r")
    assert await bench.attempts(saga_id, "close") == [1, 2, 3, 1]


async def test_a_hold_keeps_steps_from_starting(bench: Bench) -> None:
    """While an account or a saga is held its steps wait, uncounted; a bar closes them; letting go lets them run."""
    account, held = f"a{uuid4().hex[:8]}", uuid4()
    insert = "INSERT INTO hold (scope, key, operator, reason) VALUES ($1, $2, 'eve', 'looking')"
    await bench.pool.executemany(insert, [("account", account), ("saga", str(held))])
    first, second, barred = await bench.ask(account=account), await bench.ask(held), await bench.ask(account=account)
    for saga_id in (first, second, barred):
        row = await bench.reaches(saga_id, "book", RowStatus.RETRY)
        assert row["attempt"] == 0
    await bench.say(barred, Bar(step="book"), step="book", context=context())
    await bench.heard(barred, StepBarred)
    await bench.pool.execute("DELETE FROM hold")
    for saga_id in (first, second):
        await bench.heard(saga_id, m.Paid)
    assert await bench.effects(barred) == []
