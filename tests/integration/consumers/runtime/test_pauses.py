"""What a pause costs while it lasts, counted in rows written and statements, and what happens when it ends."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from pydantic import SecretStr

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.direct import direct, names
from tests.e2e.harness import Bench, open_bench
from tests.waiting import until
from tradesaga.consumers.queries import diagnosis
from tradesaga.consumers.runtime import processor, step_rows
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.infra import pauses
from tradesaga.infra.settings import Settings
from tradesaga.sagas.step_state import RowStatus

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]
N = 200
LASTS = 3.0
_COUNTED = """
CREATE TABLE written (saga_id uuid, operation text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO written VALUES (NEW.saga_id, TG_OP); RETURN NULL; END $$;
CREATE TRIGGER noted AFTER INSERT OR UPDATE ON step_execution FOR EACH ROW EXECUTE FUNCTION note();
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench whose database notes each write of a step's row."""
    async with open_bench(stack.kafka, module_database_url) as bench:
        await bench.pool.execute(_COUNTED)
        yield bench


async def pause(bench: Bench, account: str) -> None:
    """Pause as an operator does."""
    await bench.pool.execute(pauses.PAUSE, "account", account, "eve", "looking")


async def resume(bench: Bench, account: str) -> None:
    """Resume as an operator does."""
    await bench.pool.execute(pauses.RESUME, "account", account)


async def written(bench: Bench, sagas: list[UUID]) -> Counter[str]:
    """Count how often rows of these sagas were written, by operation."""
    found = await bench.pool.fetch("SELECT operation FROM written WHERE saga_id = ANY($1::uuid[])", sagas)
    return Counter(row["operation"] for row in found)


def asked(account: str) -> m.Asked:
    """Make a start."""
    return m.Asked(idempotency_key="k", account=account, plan={})


async def test_each_held_step_is_written_once(bench: Bench) -> None:
    """However long the pause lasts; once it ends, all of them start within about a second."""
    await pause(bench, "many")
    await bench.serve(bench.kit.desk)
    sagas = [await bench.ask(account="many") for _ in range(N)]
    for saga_id in sagas:
        await bench.reaches(saga_id, "book", RowStatus.RETRY)
    await asyncio.sleep(LASTS)
    assert await written(bench, sagas) == {"INSERT": N}

    await resume(bench, "many")
    began = asyncio.get_running_loop().time()

    async def booked() -> bool:
        done = "SELECT count(*) FROM step_execution WHERE step = 'book' AND status = $1 AND saga_id = ANY($2::uuid[])"
        return await bench.pool.fetchval(done, RowStatus.DONE, sagas) == N

    await until(booked, 10.0)
    assert asyncio.get_running_loop().time() - began < 5.0
    await bench.stop()
    for saga_id in sagas:
        assert ("book", "forward") in await bench.effects(saga_id)


async def test_why_tells_that_a_step_is_paused(bench: Bench) -> None:
    """Also where the pause is in another database: with when the step will start, and no due time."""
    await pause(bench, "asked")
    await bench.serve(bench.kit.desk, log=True)
    saga_id = await bench.ask(account="asked")
    await bench.reaches(saga_id, "book", RowStatus.RETRY)
    row = await bench.settled(saga_id, "IDLE", "RUNNING")
    settings = Settings(kafka=bench.kafka, database_url=SecretStr(bench.url))
    with (
        patch.object(diagnosis, "find_saga", return_value=bench.saga),
        patch.object(diagnosis, "registered_participants", return_value=[bench.kit.desk]),
    ):
        async with bench.pool.acquire() as sql:
            found = await diagnosis.diagnose(sql, settings, row)
    await bench.stop()
    assert found["summary"] == "account asked is paused: looking"
    (step,) = [each for each in found["waits_for"] if each["step"] == "book"]
    assert (step["status"], step["paused"], step["due_in"]) == ("RETRY", True, None)
    assert "it is paused, desk starts it within about a second" in diagnosis.summarize({**found, "holds": []})
    await resume(bench, "asked")


async def test_a_held_step_costs_no_statement(bench: Bench) -> None:
    """A batch reads the pauses and no row, until one ends; a row is written when it is held, and when it starts."""
    async with direct(bench, StepProcessor(bench.kit.desk)) as driven:
        await driven.judge(driven.record(uuid4(), asked("first")))  # the driver asks for the types once
        await pause(bench, "some")
        held = [uuid4() for _ in range(N)]
        assert await driven.judge(*(driven.record(saga_id, asked("some")) for saga_id in held)) == []
        assert await written(bench, held) == {"INSERT": N}
        await driven.judge()
        # The transaction, the lanes (twice) and the pauses.
        assert len(driven.statements) == 5, driven.statements
        await pause(bench, "others")
        await driven.judge()
        assert len(driven.statements) == 5, driven.statements
        assert driven.processor.due_in() != 0

        await resume(bench, "others")
        said = 0
        while True:
            said += len(await driven.judge())
            assert len(driven.statements) == 5 + 1, driven.statements
            if driven.processor.due_in() != 0:
                break
        assert said == 0
        assert await written(bench, held) == {"INSERT": N}

        await resume(bench, "some")
        while len(names(await driven.judge())) or driven.processor.due_in() == 0:
            pass
        assert await written(bench, held) == {"INSERT": N, "UPDATE": N}


async def test_steps_start_in_parts_beside_what_arrives(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch starts as many as it may take of what is due, and processes its records too; each row is read once."""
    monkeypatch.setattr(processor, "DUE_LIMIT", 48)
    async with direct(bench, StepProcessor(bench.kit.desk)) as driven:
        await pause(bench, "parts")
        held = [uuid4() for _ in range(N)]
        await driven.judge(*(driven.record(saga_id, asked("parts")) for saga_id in held))
        await resume(bench, "parts")
        read = 0
        loading = step_rows.load_held

        async def counting(*arguments: object) -> step_rows.HeldPage:
            nonlocal read
            page = await loading(*arguments)  # pyright: ignore[reportArgumentType]
            read += len(page.rows)
            return page

        monkeypatch.setattr(processor, "load_held", counting)
        parts: list[int] = []
        while not parts or driven.processor.due_in() == 0:
            parts.append(len(await driven.judge(driven.record(uuid4(), asked("else")))) - 1)
        assert sum(parts) == N == read
        assert max(parts) <= 48
        assert len(parts) <= 3 * (N // 48 + 1)


async def test_a_page_is_read_by_index(bench: Bench) -> None:
    """Rows that were held at the same microsecond are of one page, so that none is passed over."""
    async with direct(bench, StepProcessor(bench.kit.desk)) as driven:
        await pause(bench, "ties")
        held = [uuid4() for _ in range(5)]
        lane = next(iter(driven.lanes))
        await driven.judge(*(driven.record(saga_id, asked("ties")) for saga_id in held))
        await bench.pool.execute("UPDATE step_execution SET lane = $1, due = '3026-01-01+00'", lane)
        page = await step_rows.load_held(driven.sql, {lane: step_rows.HELD_FROM}, ["book"], 2)
        assert {row.saga_id for row in page.rows} == set(held)
        assert (await step_rows.load_held(driven.sql, page.following, ["book"], 2)).rows == []
        await resume(bench, "ties")
