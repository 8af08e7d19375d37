"""A participant that is new to its database does nothing again that somebody has done; a person says where to begin."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any
from unittest.mock import patch
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.conftest import Stack, fresh_database
from tests.e2e import messages as m
from tests.e2e.harness import Bench, open_bench
from tests.waiting import until
from tradesaga.consumers import Participant, StepContext
from tradesaga.consumers.recovery import commands
from tradesaga.consumers.runtime.service import EDGE, WHOLE, spans
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.settings import Settings
from tradesaga.sagas import minutes, saga, step

PATIENCE = 60.0


class Team:
    """One team's participant for the first step, with a database of its own."""

    def __init__(self, name: str, bench: Bench, url: str) -> None:
        book = step("book", on=m.Asked, emits=m.Booked, rejects=m.BookRefused)
        self.done: list[UUID] = []
        self.participant = Participant(name, saga(bench.saga.name, version=1, deadline=minutes(5)).then(book))
        self.settings = Settings(kafka=bench.kafka, database_url=SecretStr(url), session_timeout_ms=3000)

        @self.participant.handles(book)
        async def do(event: m.Asked, ctx: StepContext) -> m.Booked:
            self.done.append(ctx.saga_id)
            return m.Booked(amount="1")

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Run the service."""
        task = asyncio.create_task(self.participant.serve(self.settings))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def begin(self, after: str | None = None) -> Any:
        """Decide where its group begins."""
        with patch.object(commands, "registered_participants", return_value=[self.participant]):
            return await commands.begin_group(self.settings, self.participant.name, after)


@pytest.fixture
def urls(stack: Stack) -> Iterator[tuple[str, str]]:
    """Give the databases of two teams."""
    with fresh_database(stack) as first, fresh_database(stack) as second:
        yield first, second


@pytest.mark.stack
@pytest.mark.timeout(240)
async def test_a_new_group_over_another_s_work_is_refused(
    stack: Stack, database_url: str, urls: tuple[str, str]
) -> None:
    """Also under the old name, with another database; starts that nobody has dealt with are no such work."""
    first_url, second_url = urls
    async with open_bench(stack.kafka, database_url) as bench:
        first, second = Team("first", bench, first_url), Team("second", bench, second_url)
        early = await bench.ask()
        async with first.serving():
            await bench.heard(early, m.Booked)
        assert first.done == [early]
        for team, words in ((second, "--after first"), (Team("first", bench, second_url), "recover database")):
            with pytest.raises(CommandError) as caught:
                await team.participant.serve(team.settings)
            assert (caught.value.exit_code, team.done) == (ExitCode.REFUSED, [])
            assert "has answers of its step book, given by first" in caught.value.what
            assert words in caught.value.do
        between = await bench.ask()
        second.settings = second.settings.changed(service_databases={"first": SecretStr(first_url)})
        await second.begin(after="first")
        async with second.serving():
            await bench.heard(between, m.Booked)
            late = await bench.ask()
            await bench.heard(late, m.Booked)
        assert second.done == [between, late]
        assert first.done == [early]


@pytest.mark.stack
@pytest.mark.timeout(240)
async def test_a_group_may_begin_at_the_end(stack: Stack, database_url: str, urls: tuple[str, str]) -> None:
    """What was asked before is left alone, and what comes is done; once begun, it is never begun again."""
    first_url, second_url = urls
    async with open_bench(stack.kafka, database_url) as bench:
        first, second = Team("first", bench, first_url), Team("second", bench, second_url)
        early = await bench.ask()
        async with first.serving():
            await bench.heard(early, m.Booked)
        await bench.ask()
        await second.begin()
        with pytest.raises(CommandError, match="has begun already"):
            await second.begin()
        async with second.serving():
            sql = await asyncpg.connect(second_url)

            async def claimed() -> bool:
                return await sql.fetchval("SELECT bool_and(epoch > 1) FROM lane")

            await until(claimed, PATIENCE)
            await sql.close()
            late = await bench.ask()
            await bench.heard(late, m.Booked)
        assert second.done == [late]


@pytest.mark.stack
@pytest.mark.timeout(240)
async def test_two_owners_that_begin_at_once_are_named(stack: Stack, database_url: str, urls: tuple[str, str]) -> None:
    """On an empty topic neither knows of the other; from the first saga on, each tells of both."""
    async with open_bench(stack.kafka, database_url) as bench:
        first, second = Team("first", bench, urls[0]), Team("second", bench, urls[1])
        with capture_logs() as logs:
            async with first.serving(), second.serving():
                saga_id = await bench.ask()
                await bench.heard(saga_id, m.Booked, 2)
                await until(lambda: _named(logs, 2), PATIENCE)
        group = bench.saga.name
        told = {(line["step"], line["group"], line["other"]) for line in logs if "second owner" in str(line["event"])}
        assert told == {("book", f"{group}-first", f"/{group}/second"), ("book", f"{group}-second", f"/{group}/first")}


async def _named(logs: Sequence[Any], count: int) -> bool:
    return len([line for line in logs if "second owner" in str(line["event"])]) >= count


@given(st.dictionaries(st.integers(0, 11), st.tuples(st.integers(0, 50_000), st.integers(0, 50_000)), min_size=1))
def test_a_long_history_is_looked_at_from_both_ends(found: dict[int, tuple[int, int]]) -> None:
    """Nothing twice, never more than the bound, and the first and the last records in any case."""
    ranges = {("t", number): (first, first + length) for number, (first, length) in found.items()}
    parts = spans(ranges)
    for place, (first, end) in ranges.items():
        own = sorted((start, stop) for at, start, stop in parts if at == place)
        assert all(start < stop for start, stop in own)
        assert all(before[1] <= after[0] for before, after in pairwise(own))
        if first < end:
            assert (own[0][0], own[-1][1]) == (first, end)
    assert sum(stop - start for _, start, stop in parts) <= max(WHOLE, 2 * EDGE * len(ranges))
