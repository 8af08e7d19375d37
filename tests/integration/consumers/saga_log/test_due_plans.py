"""What finding due rows costs does not grow with the rows that are not due: counted in rows, on any machine."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from tests.benchmarks.scale.plans import read_plan
from tradesaga.consumers.runtime import step_rows
from tradesaga.consumers.saga_log import store
from tradesaga.infra.postgres.database import Session, session

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]
LANES = list(range(1, 13))
EACH = 500
LIMIT = 10
_STEPS = """
INSERT INTO step_execution (saga_id, step, lane, status, due)
SELECT gen_random_uuid(), 'fill', lane, 3, now() + interval '1 hour' + (number * 12 + lane) * interval '10 ms'
FROM generate_series(1, 12) AS lane, generate_series(1, $1::int) AS number
"""
_SAGAS = """
INSERT INTO saga (saga_id, name, version, lane, state, current_step_index, completed_steps, compensated_steps, context,
    progress, seq, head, deadline, deadline_due, request_hash, created_at, updated_at)
SELECT gen_random_uuid(), 'trade', 1, lane, 'RUNNING', 0, '[]', '[]', '{}', '', 1, '', at, at, '', at, at
FROM generate_series(1, 12) AS lane, generate_series(1, $1::int) AS number,
    LATERAL (SELECT now() + interval '1 hour' + (number * 12 + lane) * interval '10 ms') AS t (at)
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sql(module_database_url: str) -> AsyncIterator[Session]:
    """Give a database in which six thousand rows are due in an hour."""
    async with session(module_database_url) as sql:
        await sql.execute(_STEPS, EACH)
        await sql.execute(_SAGAS, EACH)
        await sql.execute("ANALYZE step_execution")
        await sql.execute("ANALYZE saga")
        yield sql


async def handled(sql: Session, statement: str, *arguments: Any) -> float:
    """Give the most rows that any node of the statement's plan has handled, those included that it threw away."""
    told = await sql.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
    return read_plan(told)["rows"]


def _late(limit: int) -> tuple[Any, ...]:
    return "trade", LANES, "trade-log", datetime.fromtimestamp(0, UTC), UUID(int=0), 0.0, limit


async def test_asking_for_the_next_due_row_reads_one_a_lane(sql: Session) -> None:
    """Rows that wait for hours cost nothing each time that somebody asks what is next."""
    assert await handled(sql, step_rows.NEXT_DUE, LANES, ["fill"], step_rows.HELD_FROM) == len(LANES)
    assert await handled(sql, store.NEXT_DUE, LANES) == len(LANES)


async def test_where_nothing_is_due_nothing_is_read(sql: Session) -> None:
    """The index is searched for what is due; what is not is not looked at."""
    assert await handled(sql, step_rows.LOAD_DUE, LANES, ["fill"], LIMIT) <= len(LANES)
    assert await handled(sql, store.DUE, LANES, LIMIT, 0.0) <= len(LANES)


async def test_after_an_outage_a_batch_reads_no_more_than_it_may_take_of_each_lane(sql: Session) -> None:
    """When everything is overdue, the first rows are found without sorting all of them, oldest first."""
    transaction = sql.transaction()
    await transaction.start()
    try:
        await sql.execute("UPDATE step_execution SET due = due - interval '1 day'")
        await sql.execute("UPDATE saga SET deadline_due = deadline_due - interval '1 day'")
        assert await handled(sql, step_rows.LOAD_DUE, LANES, ["fill"], LIMIT) <= LIMIT * len(LANES)
        assert await handled(sql, store.DUE, LANES, LIMIT, 0.0) <= LIMIT * len(LANES)
        oldest = await sql.fetch("SELECT saga_id FROM step_execution ORDER BY due LIMIT $1", LIMIT)
        assert [each.saga_id for each in await step_rows.load_due(sql, LANES, ["fill"], LIMIT)] == [
            one[0] for one in oldest
        ]
        first = await sql.fetch("SELECT saga_id FROM saga ORDER BY deadline_due LIMIT $1", LIMIT)
        assert await store.find_due(sql, LANES, LIMIT) == [one[0] for one in first]
    finally:
        await transaction.rollback()


async def test_held_rows_cost_nothing_but_when_they_are_checked(sql: Session) -> None:
    """Asking for due rows, or for the next one, reads none of them; a page reads its own rows, and one more a lane."""
    transaction = sql.transaction()
    await transaction.start()
    try:
        await sql.execute("UPDATE step_execution SET due = due + interval '1000 years'")
        assert await handled(sql, step_rows.NEXT_DUE, LANES, ["fill"], step_rows.HELD_FROM) <= len(LANES)
        assert await handled(sql, step_rows.LOAD_DUE, LANES, ["fill"], LIMIT) <= len(LANES)
        after = dict.fromkeys(LANES, step_rows.HELD_FROM)
        read, pages = 0, 0
        while after:
            arguments = list(after), list(after.values()), ["fill"], LIMIT
            assert await handled(sql, step_rows.LOAD_HELD, *arguments) <= (LIMIT + 1) * len(after)
            page = await step_rows.load_held(sql, after, ["fill"], LIMIT * len(after))
            read, pages, after = read + len(page.rows), pages + 1, page.following
        assert read == EACH * len(LANES)
        assert pages <= EACH // LIMIT + 1
    finally:
        await transaction.rollback()


async def test_sagas_that_have_ended_are_not_read_for_those_that_are_late(sql: Session) -> None:
    """Looking for sagas past their deadlines reads those that are open, however many have ended."""
    transaction = sql.transaction()
    await transaction.start()
    try:
        await sql.execute(
            "UPDATE saga SET state = 'COMPLETED' WHERE saga_id NOT IN (SELECT saga_id FROM saga LIMIT $1)", LIMIT
        )
        await sql.execute("ANALYZE saga")
        assert await handled(sql, store.LATE, *_late(10 * LIMIT)) <= LIMIT
    finally:
        await transaction.rollback()


async def test_sagas_that_are_not_late_are_not_read_for_those_that_are(sql: Session) -> None:
    """However many are open, and none of them late: nothing is read."""
    assert await handled(sql, store.LATE, *_late(LIMIT)) <= 1


async def test_a_page_of_late_sagas_reads_no_more_than_the_page(sql: Session) -> None:
    """Where all are late, also while the planner knows of none, each page goes on behind the one before."""
    transaction = sql.transaction()
    await transaction.start()
    try:
        await sql.execute("UPDATE saga SET deadline = deadline - interval '1 day'")
        first = await sql.fetch(store.LATE, *_late(LIMIT))
        behind = first[-1]["deadline"], first[-1]["saga_id"]
        arguments = (*_late(LIMIT)[:3], *behind, *_late(LIMIT)[5:])
        assert await handled(sql, store.LATE, *arguments) <= 2 * LIMIT
        rest = await sql.fetch(store.LATE, *arguments)
        oldest = await sql.fetch("SELECT saga_id FROM saga ORDER BY deadline, saga_id LIMIT $1", 2 * LIMIT)
        assert [each["saga_id"] for each in (*first, *rest)] == [each[0] for each in oldest]
    finally:
        await transaction.rollback()
