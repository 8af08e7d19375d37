"""How pauses begin and end while batches are processed: each script asserts it, and runs on both databases.

One processor owns all lanes, and every batch is judged by hand, so that a pause can end at any moment of one.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

from tests.e2e.direct import Direct, names
from tests.sagas import Filled, OrderAsked, Unfilled
from tests.simulation.rigs import Sessions
from tradesaga.consumers.participant import Participant, StepContext
from tradesaga.consumers.runtime.processor import CHECK_PAUSES, StepProcessor
from tradesaga.infra import pauses
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.infra.outbox import lane_rows
from tradesaga.infra.outbox.processor import Received, Transaction
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.definition import saga, seconds
from tradesaga.sagas.step import Retry, step
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.messages.lifecycle import Bar
from tradesaga.schemas.messages.lifecycle import Retry as RetryCommand
from tradesaga.schemas.topics import PARTITIONS

FILL = step("fill", on=OrderAsked, emits=Filled, rejects=Unfilled, retry=Retry(attempts=1))
PAUSED = saga("paused", version=1, deadline=seconds(60)).then(FILL)
LIMIT = 3
"""Rows that a batch may start: the calls in flight that the processor admits."""


def sagas(count: int, partition: int = 0) -> list[UUID]:
    """Give the ids of sagas whose records lie in one partition."""
    ids = (UUID(int=number, version=4) for number in range(1, 10_000))
    found = (each for each in ids if partition_of(str(each).encode(), PARTITIONS) == partition)
    return [next(found) for _ in range(count)]


async def _nothing() -> None:
    pass


class Owner:
    """A processor that owns its lanes until the next one takes them; `during` runs within the step of account `x`."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.during: Callable[[], Awaitable[Any]] = _nothing
        self.repaired = False
        participant = Participant("one", PAUSED, pauses=lambda ctx: [("account", ctx.get(OrderAsked).account)])

        @participant.handles(FILL)
        async def fill(event: OrderAsked, ctx: StepContext) -> Filled | Unfilled:
            if event.account == "x":
                await self.during()
            if event.account == "failing" and not self.repaired:
                raise ZeroDivisionError
            return Filled()

        self.processor = StepProcessor(participant, calls=LIMIT)

    async def own(self, sql: Connection, topics: Sequence[str] = ()) -> None:
        """Take over the lanes of these topics, or of all."""
        places = [(topic, number) for topic in topics or self.processor.topics for number in range(PARTITIONS)]
        lanes = await lane_rows.acquire(sql, self.processor.group, places, "owner")
        await self.processor.open(sql, lanes, lambda: None)
        self.lanes = {lane.id: lane for lane in lanes}
        self.driven = Direct(self.processor, sql, self.lanes, PAUSED.name)

    async def judge(self, *received: Received) -> int:
        """Commit a batch with the lanes that a worker would lock, and give the number of steps it has completed."""
        others = self.processor.other_lanes()
        if others is not None:
            wanted = {each.lane for each in received}.union(others)
            self.driven.lanes = {number: lane for number, lane in self.lanes.items() if number in wanted}
        told = names(await self.driven.judge(*received))
        self.driven.lanes = self.lanes
        await asyncio.sleep(0.001)  # rows that are held at the same time are read together
        assert told == ["filled"] * len(told)
        return len(told)

    def start(self, saga_id: UUID, account: str) -> Received:
        """Make the record of a start."""
        return self.driven.record(saga_id, OrderAsked(idempotency_key="k", account=account))

    async def catch_up(self) -> list[int]:
        """Commit batches for as long as there is work at once, and give how many steps each has completed."""
        done: list[int] = []
        while self.processor.due_in() == 0:
            done.append(await self.judge())
            assert len(done) < 100
        return done

    async def look(self) -> int:
        """Commit the batch that reads the pauses, and those that follow at once; give the steps completed."""
        return sum([await self.judge(), *await self.catch_up()])

    def polls(self) -> bool:
        """Tell whether there will be a batch within a second, however long nothing arrives."""
        due = self.processor.due_in()
        return due is not None and due <= CHECK_PAUSES

    async def pause(self, scope: str, key: str) -> None:
        """Pause as an operator does."""
        await self.sessions.two.execute(pauses.PAUSE, scope, key, "eve", "why")

    async def resume(self, scope: str, key: str) -> None:
        """Resume as an operator does."""
        await self.sessions.two.execute(pauses.RESUME, scope, key)


@asynccontextmanager
async def _owner(sessions: Sessions) -> AsyncGenerator[Owner]:
    owner = Owner(sessions)
    await owner.own(sessions.one)
    try:
        yield owner
    finally:
        await owner.processor.close()


async def a_pause_is_noticed_when_it_ends(sessions: Sessions) -> list[Any]:
    """While it lasts its owner looks once a second; once it has ended, the step starts in the next batch."""
    (first,) = sagas(1)
    async with _owner(sessions) as owner:
        assert owner.processor.due_in() is None
        await owner.pause("account", "a")
        assert await owner.judge(owner.start(first, "a")) == 0
        assert owner.processor.due_in() != 0
        assert owner.polls()
        assert await owner.judge() == 0
        assert owner.polls()
        await owner.resume("account", "a")
        assert await owner.look() == 1
        assert await owner.catch_up() == []
        assert owner.processor.due_in() is None
    return []


async def a_pause_ends_while_a_batch_holds_a_step(sessions: Sessions) -> list[Any]:
    """It is lifted after the batch has read the pauses, and before it commits: the next batch starts the step."""
    first, second = sagas(2)
    async with _owner(sessions) as owner:
        await owner.pause("account", "a")
        owner.during = lambda: owner.resume("account", "a")
        assert await owner.judge(owner.start(first, "a"), owner.start(second, "x")) == 1
        assert owner.polls()
        assert await owner.look() == 1
    return []


async def a_pause_ends_while_nobody_owns_the_lanes(sessions: Sessions) -> list[Any]:
    """The next owner checks what it finds held, whatever was paused before."""
    first, second = sagas(2)
    async with _owner(sessions) as owner:
        for key, saga_id in (("a", first), ("b", second)):
            await owner.pause("account", key)
            assert await owner.judge(owner.start(saga_id, key)) == 0
    await owner.resume("account", "a")
    async with _owner(sessions) as owner:
        assert await owner.catch_up() == [1]
        assert owner.polls()
    async with _owner(sessions) as owner:
        assert sum(await owner.catch_up()) == 0
        await owner.resume("account", "b")
        assert owner.polls()
        assert await owner.look() == 1
    return []


async def a_batch_that_has_started_steps_is_rolled_back(sessions: Sessions) -> list[Any]:
    """What it has seen and checked does not count: they are started once more."""
    first, second, third, fourth = sagas(4)
    async with _owner(sessions) as owner:
        await owner.pause("account", "a")
        for saga_id in (first, second, third, fourth):
            await owner.judge(owner.start(saga_id, "a"))
        await owner.resume("account", "a")
        for _ in range(3):
            await _roll_back(owner)
        assert await owner.look() == 4
    return []


async def _roll_back(owner: Owner) -> None:
    with suppress(ZeroDivisionError):
        async with owner.sessions.one.transaction():
            await owner.processor.apply(Transaction(owner.sessions.one, owner.driven.lanes), [])
            raise ZeroDivisionError


async def held_steps_are_checked_page_by_page(sessions: Sessions) -> list[Any]:
    """A batch starts as many as it may, besides its records; those that another pause holds are left as they are."""
    held = sagas(8)
    async with _owner(sessions) as owner:
        await owner.pause("account", "a")
        await owner.pause("saga", str(held[4]))
        for saga_id in held:
            await owner.judge(owner.start(saga_id, "a"))
        await owner.resume("account", "a")
        assert await owner.judge() == 0
        assert await owner.judge(owner.start(sagas(9)[-1], "b")) == LIMIT + 1
        assert await owner.catch_up() == [LIMIT - 1, 2]
        assert owner.polls()
        await owner.resume("saga", str(held[4]))
        assert await owner.look() == 1
        assert await owner.catch_up() == []
        assert owner.processor.due_in() is None
    return []


async def a_second_pause_ends_while_rows_are_checked(sessions: Sessions) -> list[Any]:
    """Rows that were checked before it ended are checked once more, and none is forgotten."""
    held = sagas(8)
    async with _owner(sessions) as owner:
        for account, ids in (("a", held[:4]), ("b", held[4:])):
            await owner.pause("account", account)
            for saga_id in ids:
                await owner.judge(owner.start(saga_id, account))
        await owner.resume("account", "b")
        assert [await owner.judge(), await owner.judge()] == [0, 0]
        await owner.resume("account", "a")
        assert sum(await owner.catch_up()) == 8
        assert owner.processor.due_in() is None
    return []


async def a_pause_begins_while_rows_are_checked(sessions: Sessions) -> list[Any]:
    """It holds the steps that have not started yet, and a bar closes one for good."""
    held = sagas(5)
    async with _owner(sessions) as owner:
        await owner.pause("account", "a")
        for saga_id in held:
            await owner.judge(owner.start(saga_id, "a"))
        await owner.resume("account", "a")
        assert await owner.judge() == 0
        assert await owner.judge() == LIMIT
        await owner.pause("saga", str(held[4]))
        assert sum(await owner.catch_up()) == 1
        told = await owner.driven.judge(owner.driven.record(held[4], Bar(step="fill"), step="fill"))
        assert names(told) == ["step-barred"]
        await owner.resume("saga", str(held[4]))
        assert await owner.look() == 0
        assert owner.processor.due_in() is None
    return [RowStatus.BARRED]


async def a_step_is_held_for_the_owner_of_another_lane(sessions: Sessions) -> list[Any]:
    """An operator's retry meets the pause: who processes the command holds the step, and starts it."""
    (saga_id,) = sagas(1)
    facts, commands = Owner(sessions), Owner(sessions)
    await facts.own(sessions.one, facts.processor.topics[:1])
    await commands.own(sessions.two, facts.processor.topics[1:])
    commands.repaired = True
    assert names(await facts.driven.judge(facts.start(saga_id, "failing"))) == ["step-failed"]
    await facts.pause("account", "failing")
    again = commands.driven.record(saga_id, RetryCommand(step="fill", round=2), b"", step="fill", round=2)
    assert await commands.judge(again) == 0
    await facts.resume("account", "failing")
    assert commands.polls()
    assert await commands.look() == 1
    for owner in (facts, commands):
        await owner.processor.close()
    return []


PAUSE_SCRIPTS: Sequence[Callable[[Sessions], Awaitable[list[Any]]]] = (
    a_pause_is_noticed_when_it_ends,
    a_pause_ends_while_a_batch_holds_a_step,
    a_pause_ends_while_nobody_owns_the_lanes,
    a_batch_that_has_started_steps_is_rolled_back,
    held_steps_are_checked_page_by_page,
    a_second_pause_ends_while_rows_are_checked,
    a_pause_begins_while_rows_are_checked,
    a_step_is_held_for_the_owner_of_another_lane,
)
