"""What can go wrong between two honest parties, by the names under which sagas are known to fail, on real servers."""

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.direct import direct, names
from tests.e2e.harness import Bench, open_bench
from tests.e2e.steps import BUSY
from tests.waiting import until
from tradesaga.consumers.runtime.processor import SKEW_NS, StepProcessor
from tradesaga.infra.clock import SystemClock
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import splice
from tradesaga.schemas.messages.lifecycle import (
    AbortRequested,
    Bar,
    DeadlineElapsed,
    ResolveRequested,
    StepBarred,
    StepContradicted,
    StepFailed,
    StepUnknown,
)

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

FORTH = [("book", "forward"), ("pay", "forward")]
BACK = [("pay", "back"), ("book", "back")]
ABORT = AbortRequested(operator="ann", reason="a test")
HOUR_NS = 3_600_000_000_000


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench on which everything runs that a saga needs."""
    # A call that a busy machine makes late has an unknown outcome, and its saga turns back.
    async with open_bench(stack.kafka, module_database_url, patience=BUSY) as bench:
        await bench.serve_all()
        yield bench


@pytest_asyncio.fixture(loop_scope="module")
async def idle(kafka: str, database_url: str) -> AsyncIterator[Bench]:
    """Give a bench of its own with nothing running on it."""
    async with open_bench(kafka, database_url) as bench:
        yield bench


async def parrot(bench: Bench, saga_id: UUID) -> None:
    """Publish each record of a saga once more, byte for byte, soon after it has come."""
    repeated: set[str] = set()
    while True:
        for heard in bench.tail.of(saga_id):
            ce_id = heard.header("ce_id")
            if ce_id not in repeated:
                repeated.add(ce_id)
                await bench.repeat(heard)
        await asyncio.sleep(0.01)


async def reported(bench: Bench, saga_id: UUID, report_id: str, kind: str) -> None:
    """Publish what the far side says."""
    await bench.say(saga_id, m.Report(report_id=report_id, kind=kind), context=b"")


@pytest.mark.parametrize("confirm", ["done", "lost"])
async def test_duplicate_facts_and_commands(bench: Bench, confirm: str) -> None:
    """Every fact and every command comes twice: forward and back, each effect happens once and in its order."""
    saga_id = uuid4()
    echo = asyncio.create_task(parrot(bench, saga_id))
    try:
        await bench.ask(saga_id, confirm=confirm)
        state = (await bench.settled(saga_id))["state"]
        await asyncio.sleep(0.3)
    finally:
        echo.cancel()
        await asyncio.wait([echo])
    assert state == ("COMPLETED" if confirm == "done" else "ABORTED")
    assert await bench.effects(saga_id) == [*FORTH, *([("close", "forward")] if confirm == "done" else BACK)]
    assert await bench.calls(saga_id, "place") == 1
    assert await bench.calls(saga_id, "recall") == (0 if confirm == "done" else 1)


async def test_late_success_while_compensating(bench: Bench) -> None:
    """A call turns out to have happened while the saga turns back: it is recorded, barred behind, and taken back."""
    saga_id = await bench.ask(ship="hang", confirm="wait")
    await bench.reaches(saga_id, "ship", RowStatus.INTENT)
    await bench.say(saga_id, ABORT, context=b"")
    row = await bench.settled(saga_id)
    await bench.heard(saga_id, m.Unbooked)
    said = bench.tail.names(saga_id)
    assert row["state"] == "ABORTED"
    assert json.loads(row["context"])["shipped"] == {"ref": f"{saga_id}:ship"}
    assert said.index("abort-requested") < said.index("shipped")
    assert await bench.effects(saga_id) == [*FORTH, *BACK]
    undone = dict.fromkeys(name for name in said if name in {"recalled", "refunded", "unbooked"})
    assert list(undone) == ["recalled", "refunded", "unbooked"]
    (barred,) = bench.tail.of(saga_id, StepBarred)
    assert barred.header("ts_step") == "confirm"
    assert barred.offset < bench.tail.of(saga_id, m.Recalled)[0].offset


async def test_fill_racing_a_cancel(bench: Bench) -> None:
    """The far side fills just before the bar's cancel arrives: the fill is the truth, and the saga runs on."""
    saga_id = await bench.ask(confirm="wait")
    await bench.reaches(saga_id, "confirm", RowStatus.WAITING)
    await bench.far.report(f"{saga_id}:ship", "r1", "done")
    await bench.say(saga_id, ABORT, context=b"")
    assert (await bench.settled(saga_id))["state"] == "COMPLETED"
    assert await bench.effects(saga_id) == [*FORTH, ("close", "forward")]
    assert await bench.calls(saga_id, "recall") == 0
    assert bench.tail.of(saga_id, StepBarred) == []


async def test_fill_after_aborted(bench: Bench) -> None:
    """The far side fills what it had called cancelled: told once as a contradiction, and a person is needed."""
    saga_id = await bench.ask(confirm="lost")
    assert (await bench.settled(saga_id))["state"] == "ABORTED"
    for _ in range(2):
        await reported(bench, saga_id, "x1", "done")
    row = await bench.settled(saga_id, "FAILED")
    assert json.loads(row["compensated_steps"]) == ["book", "pay", "ship"]
    await reported(bench, saga_id, "x2", "progress")
    await bench.heard(saga_id, m.Report, 3)
    assert len(bench.tail.of(saga_id, StepContradicted)) == 1
    assert await bench.effects(saga_id) == [*FORTH, *BACK]


async def test_bust_after_completed(bench: Bench) -> None:
    """A busted trade fails a completed saga, once for the venue's id, until a person closes it; nothing is undone."""
    saga_id = await bench.ask()
    assert (await bench.settled(saga_id))["state"] == "COMPLETED"
    for _ in range(2):
        await reported(bench, saga_id, "bust-1", "busted")
    await bench.settled(saga_id, "FAILED")
    closed = ResolveRequested(operator="ann", reason="settled by hand", outcome="COMPLETED")
    await bench.say(saga_id, closed, context=b"")
    await bench.settled(saga_id, "COMPLETED")
    await reported(bench, saga_id, "bust-1", "busted")
    await bench.heard(saga_id, m.Report, 3)
    assert len(bench.tail.of(saga_id, StepContradicted)) == 1
    assert await bench.effects(saga_id) == [*FORTH, ("close", "forward")]


async def test_deadline_after_the_end(bench: Bench) -> None:
    """A timer that fires late, for a saga that has ended either way, changes nothing."""
    for plan, state in (("done", "COMPLETED"), ("lost", "ABORTED")):
        saga_id = await bench.ask(confirm=plan)
        await bench.settled(saga_id, state)
        await bench.say(saga_id, DeadlineElapsed(deadline="2026-01-01T00:00:00.000000000Z"), context=b"")

        async def counted(saga_id: UUID = saga_id) -> bool:
            kind = f"{bench.saga.name}.deadline-elapsed.v1"
            statement = "SELECT count(*) FROM saga_event WHERE saga_id = $1 AND event_type = $2"
            return await bench.pool.fetchval(statement, saga_id, kind) == 1

        await until(counted)
        assert (await bench.settled(saga_id))["state"] == state
        assert bench.tail.of(saga_id, Bar) == []


async def test_timer_for_an_old_attempt(idle: Bench) -> None:
    """An attempt ends after its row has gone on to the next one: what it brings counts for nothing."""
    saga_id = uuid4()
    asked = m.Asked(idempotency_key="k", plan={"ship": "hang", "confirm": "wait"}).to_wire()
    async with direct(idle, StepProcessor(idle.kit.port)) as owner:
        assert (
            await owner.judge(owner.record(saga_id, m.Paid(amount="1", attempt=1), splice(b"", "asked", asked))) == []
        )
        await idle.pool.execute("UPDATE step_execution SET attempt = 2 WHERE saga_id = $1", saga_id)

        async def ended() -> bool:
            return owner.processor.due_in() == 0

        await until(ended)
        assert names(await owner.judge()) == []
        row = await idle.row(saga_id, "ship")
    assert row is not None
    assert (row["status"], row["attempt"]) == (RowStatus.INTENT, 2)


class JumpingClock:
    """The machine's clock, put forward by an hour when asked to."""

    def __init__(self) -> None:
        self.ahead = 0

    def now(self) -> int:
        """Give nanoseconds since 1970 UTC, or what this clock takes for it."""
        return SystemClock().now() + self.ahead


async def test_clock_that_jumps_over_an_expiry(idle: Bench) -> None:
    """An hour gained by the clock voids no call that is still on its way: "not found" waits for real time too."""
    clock = JumpingClock()
    running = idle.run(StepProcessor(idle.kit.port, clock=clock))
    await running.ready()
    saga_id = uuid4()
    asked = m.Asked(idempotency_key="k", plan={"ship": "dropped", "confirm": "wait"}).to_wire()
    await idle.say(saga_id, m.Paid(amount="1", attempt=1), context=splice(b"", "asked", asked))
    await idle.heard(saga_id, StepUnknown)
    clock.ahead = HOUR_NS
    await idle.heard(saga_id, StepFailed)
    statement = """SELECT (extract(epoch FROM at) * 1e9)::bigint AS at, expires FROM far_call
        WHERE key = $1 AND kind = 'place' ORDER BY id"""
    first, *others = await idle.pool.fetch(statement, f"{saga_id}:ship")
    assert len(others) == 2
    void = [first["expires"], *(each["expires"] - HOUR_NS for each in others)]
    assert all(each["at"] >= before + SKEW_NS for before, each in zip(void[:-1], others, strict=True))


async def test_clock_that_falls_behind_for_a_moment(idle: Bench) -> None:
    """Asked while the clock is an hour slow, a step does not wait that hour: it asks again, by a clock set right."""
    clock = JumpingClock()
    running = idle.run(StepProcessor(idle.kit.port, clock=clock))
    await running.ready()
    saga_id = uuid4()
    asked = m.Asked(idempotency_key="k", plan={"ship": "dropped", "confirm": "wait"}).to_wire()
    await idle.say(saga_id, m.Paid(amount="1", attempt=1), context=splice(b"", "asked", asked))
    await idle.heard(saga_id, StepUnknown)
    clock.ahead = -HOUR_NS
    before = await idle.calls(saga_id, "query")

    async def asked_again() -> bool:
        return await idle.calls(saga_id, "query") > before

    await until(asked_again)
    clock.ahead = 0
    await idle.heard(saga_id, StepFailed)
