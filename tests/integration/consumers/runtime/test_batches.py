"""What meets in one batch: a constant number of statements, and one bad work that harms no other."""

import time
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.direct import Direct, direct, names
from tests.e2e.harness import Bench, open_bench
from tests.e2e.steps import make_steps
from tradesaga.consumers.participant import Participant, StepContext, Work
from tradesaga.consumers.runtime import waiting_steps
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.definition import saga, seconds
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.envelope import splice
from tradesaga.schemas.messages.lifecycle import Bar, StepFailed

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench with nothing running on it."""
    async with open_bench(stack.kafka, module_database_url) as bench:
        yield bench


@pytest_asyncio.fixture(loop_scope="module")
async def desk(bench: Bench) -> AsyncIterator[Direct]:
    """Give the participant of the local steps, to be driven by hand."""
    async with direct(bench, StepProcessor(bench.kit.desk)) as driven:
        yield driven


def asked(**plan: str) -> m.Asked:
    """Give a start."""
    return m.Asked(idempotency_key=uuid4().hex, plan=plan)


def facts(**plan: str) -> bytes:
    """Give the context of a saga that is paid."""
    return splice(splice(b"", "asked", asked(**plan).to_wire()), "paid", m.Paid(amount="1", attempt=1).to_wire())


async def test_statements_do_not_grow_with_the_batch(bench: Bench) -> None:
    """The runtime and batch handlers send the same statements for 1, 10 and 500 messages, new, again or barred."""
    steps, counted = make_steps(), 0
    whole = saga(bench.saga.name, version=1, deadline=seconds(60)).then(steps.book)
    quiet = Participant("quiet", whole)

    @quiet.handles_batch(steps.book)
    async def book(works: Sequence[Work[m.Asked]], sql: Connection) -> list[m.Booked | m.BookRefused]:
        nonlocal counted
        counted += len(works)
        await sql.execute("SELECT 1")
        return [m.Booked(amount="1") for _ in works]

    @quiet.compensates_batch(steps.book)
    async def unbook(works: Sequence[Work[m.Unbook]], sql: Connection) -> list[m.Unbooked]:
        return [m.Unbooked() for _ in works]

    sent: dict[str, list[list[str]]] = {"new": [], "again": [], "undone": [], "barred": []}
    async with direct(bench, StepProcessor(quiet)) as driven:
        # The driver asks once for the types of what it inserts, and of what it updates.
        saga_id = uuid4()
        await driven.judge(driven.record(saga_id, asked()))
        await driven.judge(driven.record(saga_id, m.Unbook(), step="book"))
        for size in (1, 10, 500):
            sagas = [uuid4() for _ in range(size)]
            starts = [driven.record(saga_id, asked()) for saga_id in sagas]
            undone = [driven.record(saga_id, m.Unbook(), step="book") for saga_id in sagas]
            barred = [driven.record(uuid4(), Bar(step="book"), step="book") for _ in sagas]
            for kind, batch in (("new", starts), ("again", starts), ("undone", undone), ("barred", barred)):
                assert len(await driven.judge(*batch)) == size
                sent[kind].append(list(driven.statements))
    assert counted == 1 + 511
    for kind, (one, ten, many) in sent.items():
        assert one == ten == many, kind
        assert len(one) <= 11, kind


async def test_one_bad_work_is_taken_out_of_its_batch(desk: Direct, bench: Bench) -> None:
    """A batch handler that raises for one work is run for each alone: one is tried again, the others are done."""
    good, bad = [uuid4() for _ in range(9)], uuid4()
    plans = [(saga_id, asked()) for saga_id in good] + [(bad, asked(book="fail"))]
    said = names(await desk.judge(*(desk.record(saga_id, start) for saga_id, start in plans)))
    assert sorted(said) == ["attempt-failed", *["booked"] * 9]
    assert await bench.effects(bad) == []
    for saga_id in good:
        assert await bench.effects(saga_id) == [("book", "forward")]


async def test_a_handler_that_breaks_its_sql_keeps_the_others_rows(desk: Direct, bench: Bench) -> None:
    """A failed statement rolls back its own savepoint, not the effects before and after it in the batch."""
    first, broken, last = uuid4(), uuid4(), uuid4()
    batch = [(first, facts()), (broken, facts(pay="sql")), (last, facts())]
    said = await desk.judge(*(desk.record(saga_id, m.Booked(amount="1"), context) for saga_id, context in batch))
    assert names(said) == ["paid", "attempt-failed", "paid"]
    assert await bench.effects(first) == await bench.effects(last) == [("pay", "forward")]
    assert await bench.effects(broken) == []


async def test_messages_of_one_step_in_one_batch_meet_in_order(desk: Direct, bench: Bench) -> None:
    """Trigger, its duplicate, a bar and two compensations in one batch come to what they would one by one."""
    saga_id = uuid4()
    booked, refund = m.Booked(amount="1"), m.Refund()
    said = await desk.judge(
        desk.record(saga_id, booked, facts()),
        desk.record(saga_id, booked, facts()),
        desk.record(saga_id, Bar(step="pay"), step="pay"),
        desk.record(saga_id, refund, facts(), step="pay"),
        desk.record(saga_id, refund, facts(), step="pay"),
    )
    assert names(said) == ["paid", "paid", "paid", "refunded", "refunded"]
    assert len({record.id for record in said}) == 2
    assert await bench.effects(saga_id) == [("pay", "forward"), ("pay", "back")]


@pytest.mark.parametrize("together", [1, 4, 9])
async def test_the_limit_of_reports_is_the_same_in_any_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """A row keeps as many reports, whether they arrive one by one or in one batch; the others are dead letters."""
    monkeypatch.setattr(waiting_steps, "REPORTS_LIMIT", 500)
    saga_id = uuid4()
    async with direct(bench, StepProcessor(bench.kit.port)) as port:
        reports = [
            port.record(saga_id, m.Report(report_id=f"{number}" * 100, kind="progress"), context=b"")
            for number in range(9)
        ]
        said = [
            each
            for first in range(0, len(reports), together)
            for each in await port.judge(*reports[first : first + together])
        ]
    assert [each.topic.rpartition(".")[2] for each in said] == ["dead-letters"] * 6


async def test_a_batch_rolled_back_is_judged_anew(desk: Direct, bench: Bench) -> None:
    """The same records after a rollback come to the same, and nothing of the first time is left."""
    saga_id = uuid4()
    record = desk.record(saga_id, m.Booked(amount="1"), facts())
    whole = desk.sql.transaction()
    await whole.start()
    assert names(await desk.judge(record)) == ["paid"]
    await whole.rollback()
    assert await bench.effects(saga_id) == []
    for lane in desk.lanes.values():
        lane.last_seq = await bench.pool.fetchval("SELECT last_seq FROM lane WHERE id = $1", lane.id)
    assert names(await desk.judge(record)) == ["paid"]
    assert await bench.effects(saga_id) == [("pay", "forward")]


async def test_handlers_that_hang_do_not_hold_the_batch_for_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the batch's time is spent, works that have not run are put off, uncounted, and done in a later batch."""
    monkeypatch.setattr("tradesaga.consumers.runtime.local_handlers.BUDGET", 1.0)
    async with direct(bench, StepProcessor(bench.kit.desk)) as driven:
        hanging, fine = [uuid4() for _ in range(6)], uuid4()
        batch = [driven.record(saga_id, m.Booked(amount="1"), facts(pay="hang")) for saga_id in hanging]
        began = time.monotonic()
        said = await driven.judge(*batch, driven.record(fine, m.Booked(amount="1"), facts()))
        assert time.monotonic() - began < 2.5
        assert set(names(said)) == {"attempt-failed"}
        assert len(said) < 6
        row = await bench.row(fine, "pay")
        assert row is not None
        assert (row["attempt"], RowStatus(row["status"])) == (0, RowStatus.RETRY)
        later: list[str] = []
        while "paid" not in later:
            later += names(await driven.judge())
    assert await bench.effects(fine) == [("pay", "forward")]


async def test_an_effect_past_the_size_limit_is_rolled_back(desk: Direct, bench: Bench) -> None:
    """In a batch, the one answer that does not fit fails its step; the others stand."""
    big, small = uuid4(), uuid4()
    said = await desk.judge(desk.record(big, asked(book="big")), desk.record(small, asked()))
    assert sorted(names(said)) == ["booked", "step-failed"]
    (failed,) = [StepFailed.from_wire(record.value) for record in said if record.type.endswith("step-failed.v1")]
    assert "passes the limit of 65536" in failed.reason
    assert await bench.effects(big) == []
    assert await bench.effects(small) == [("book", "forward")]


async def test_a_participant_that_cannot_tell_what_holds_it_waits(bench: Bench) -> None:
    """While anything is held, a step whose own holds cannot be told does not start."""
    steps = make_steps()
    whole = saga(bench.saga.name, version=1, deadline=seconds(60)).then(steps.book)

    def unsure(ctx: StepContext) -> Sequence[tuple[str, str]]:
        return [("account", ctx.get(m.Paid).amount)]

    careful = Participant("careful", whole, pauses=unsure)

    @careful.handles(steps.book)
    async def book(event: m.Asked, ctx: StepContext) -> m.Booked | m.BookRefused:
        return m.Booked(amount="1")

    @careful.compensates(steps.book)
    async def unbook(command: m.Unbook, ctx: StepContext) -> m.Unbooked:
        return m.Unbooked()

    async with direct(bench, StepProcessor(careful)) as driven:
        await bench.pool.execute(
            "INSERT INTO hold (scope, key, operator, reason) VALUES ('account', 'x', 'eve', 'why')"
        )
        assert await driven.judge(driven.record(uuid4(), asked())) == []
        await bench.pool.execute("DELETE FROM hold")
        assert names(await driven.judge(driven.record(uuid4(), asked()))) == ["booked", "booked"]
