"""A handler that blocks, or answers what is no answer, is named; its attempts are counted, and the others go on."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.harness import Bench, open_bench
from tests.waiting import until
from tradesaga.consumers import Participant, StepContext, Work
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas import minutes, saga
from tradesaga.sagas.definition import seconds
from tradesaga.sagas.step import Retry, step
from tradesaga.schemas.messages.lifecycle import AttemptFailed, StepFailed
from tradesaga.schemas.messages.message import Event

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
LONG = 120.0


class Loose(Event):
    """An answer that takes anything."""

    detail: Any = None


def make_step(attempts: int = 2) -> Any:
    """Make the first step of the test saga, for a handler of the test's own."""
    return step(
        "book", on=m.Asked, emits=m.Booked, rejects=m.BookRefused, compensate=m.Unbook, compensated=m.Unbooked,
        timeout=seconds(3), retry=Retry(attempts=attempts, initial=0.1, maximum=0.2),
    )  # fmt: skip


def participant_of(bench: Bench, book: Any) -> Participant:
    """Make a participant that owns this one step."""
    whole = saga(bench.saga.name, version=1, deadline=minutes(5)).then(book)
    participant = Participant("blunt", whole)

    @participant.compensates(book)
    async def unbook(command: m.Unbook, ctx: StepContext) -> m.Unbooked:
        return m.Unbooked()

    return participant


@pytest.mark.parametrize("together", [False, True])
async def test_a_handler_that_blocks_is_named_and_harms_no_other(
    stack: Stack, database_url: str, together: bool
) -> None:
    """It costs its batch the session, each time; its own saga fails with the place as reason, the others are done."""
    async with open_bench(stack.kafka, database_url) as bench:
        book = make_step()
        blunt, blocked = participant_of(bench, book), list[str]()

        def work(event: m.Asked) -> m.Booked:
            if event.plan.get("book") == "block":
                blocked.append(event.idempotency_key)
                time.sleep(9)  # this line is named
            return m.Booked(amount="1")

        async def one(event: m.Asked, ctx: StepContext) -> m.Booked:
            return work(event)

        async def many(works: Sequence[Work[m.Asked]], sql: Connection) -> list[m.Booked]:
            return [work(each.event) for each in works]

        blunt.handles_batch(book)(many) if together else blunt.handles(book)(one)
        guilty = await bench.ask(book="block")
        others = [await bench.ask() for _ in range(5)]
        processor = StepProcessor(blunt)
        with capture_logs() as logs, processor.watch.watching():
            (await asyncio.gather(bench.run(processor).ready()))
            for saga_id in others:
                await until(lambda other=saga_id: _heard(bench, other, m.Booked), LONG)
            await until(lambda: _heard(bench, guilty, StepFailed), LONG)
        (failed,) = [StepFailed.from_wire(each.value) for each in bench.tail.of(guilty, StepFailed)]
        assert failed.attempts == 2
        assert "it held up the event loop for" in failed.reason
        assert "test_blocking.py:" in failed.reason
        # A lost session may have it published twice, under one id.
        assert {AttemptFailed.from_wire(each.value).attempt for each in bench.tail.of(guilty, AttemptFailed)} == {1}
        for saga_id in others:
            assert not bench.tail.of(saga_id, AttemptFailed)
        named = [line for line in logs if str(line["event"]).startswith("the event loop is held up")]
        assert {line["function"] for line in named} == {"work"}
        assert len(blocked) <= 4


async def _heard(bench: Bench, saga_id: Any, event: Any) -> bool:
    return bool(bench.tail.of(saga_id, event))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("text", "the handler returned str; 'book' answers with Booked or BookRefused"),
        (None, "the handler returned None; 'book' answers with Booked or BookRefused"),
        (m.Paid(amount="1", attempt=1), "the handler returned Paid; 'book' answers with Booked or BookRefused"),
        (type("Better", (m.Booked,), {"__module__": __name__})(amount="1"), "the handler returned Better; 'book'"),
    ],
)
async def test_a_wrong_answer_fails_its_step_with_the_reason(
    stack: Stack, database_url: str, answer: Any, reason: str
) -> None:
    """What the saga log could not read is never written: the step fails, and so the saga ends."""
    async with open_bench(stack.kafka, database_url) as bench:
        book = make_step(attempts=1)
        blunt = participant_of(bench, book)

        async def wrong(event: m.Asked, ctx: StepContext) -> Any:
            return answer

        blunt.handles(book)(wrong)
        await bench.serve(blunt)
        saga_id = await bench.ask()
        heard = await bench.heard(saga_id, StepFailed)
        assert reason in StepFailed.from_wire(heard[0].value).reason


async def test_a_number_that_json_cannot_hold_is_never_written(stack: Stack, database_url: str) -> None:
    """The step fails, naming the field: the saga log could not have read it, and the saga would have waited on."""
    async with open_bench(stack.kafka, database_url) as bench:
        book = step("book", on=m.Asked, emits=Loose, retry=Retry(attempts=1))
        blunt = Participant("blunt", saga(bench.saga.name, version=1, deadline=minutes(5)).then(book))

        @blunt.handles(book)
        async def divide(event: m.Asked, ctx: StepContext) -> Loose:
            return Loose(detail={"ratio": [1.0, float("nan")]})

        await bench.serve(blunt)
        heard = await bench.heard(await bench.ask(), StepFailed)
        assert StepFailed.from_wire(heard[0].value).reason == "Loose.detail.ratio.1 is NaN, which is no JSON number"
