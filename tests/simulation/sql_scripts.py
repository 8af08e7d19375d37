"""What the step path asks of PostgreSQL, as scripts: each gives what it has seen, in words that both ports share."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg

from tests.simulation.rigs import Sessions
from tradesaga.consumers.runtime import step_rows as rows
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.infra.clock import new_id
from tradesaga.infra.kafka.codec import Outgoing, RecordChecksum
from tradesaga.infra.outbox import lane_rows, outbox_rows
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.outbox_rows import OutboxRow
from tradesaga.infra.outbox.processor import ConflictError
from tradesaga.infra.postgres.database import DATABASE_ERRORS, Connection
from tradesaga.sagas.step_state import RowStatus

A, B = UUID(int=1, version=4), UUID(int=2, version=4)
PLACES = (("t.events", 0), ("t.events", 1))
STEPS = ["hold", "place"]
Seen = list[Any]


def told(lanes: Sequence[Lane]) -> Seen:
    """Give what is known of lanes, by their places."""
    return sorted((x.topic, x.partition, x.epoch, x.next_offset, x.last_seq, x.acked_seq) for x in lanes)


def at(lane: Lane, offset: int) -> Lane:
    """Give the lane as an owner knows it who goes on at this offset."""
    return replace(lane, next_offset=offset)


def said(lane: Lane, seq: int, payload: str = "x") -> OutboxRow:
    """Make a row of the outbox."""
    return OutboxRow(lane.id, seq, Outgoing("t.events", str(A), new_id(), "t.x.v1", [("a", b"b")], payload.encode()))


async def caught(work: Awaitable[Any]) -> str:
    """Name what was raised."""
    try:
        await work
    except (*DATABASE_ERRORS, ConflictError) as error:
        return type(error).__name__
    return "nothing"


async def claims_raise_epochs(sessions: Sessions) -> Seen:
    """Each claim of a lane has a higher epoch; the lane itself is the same."""
    first = await lane_rows.acquire(sessions.one, "g", PLACES, "one")
    second = await lane_rows.acquire(sessions.two, "g", PLACES[1:], "two")
    other = await lane_rows.acquire(sessions.two, "h", PLACES[:1], "two")
    same = next(x.id for x in first if x.partition == 1) == second[0].id
    return [told(first), told(second), told(other), same, await lane_rows.read_offsets(sessions.one, "g", PLACES)]


async def only_the_owner_passes(sessions: Sessions) -> Seen:
    """A former owner's writes, and those of one who has missed a row, are not returned."""
    (old,) = await lane_rows.acquire(sessions.one, "g", PLACES[:1], "one")
    seen: Seen = [len(await lane_rows.advance(sessions.one, [at(old, 5)]))]
    (new,) = await lane_rows.acquire(sessions.two, "g", PLACES[:1], "two")
    seen += [len(await lane_rows.advance(sessions.one, [at(old, 9)])), told([new])]
    seen.append(len(await lane_rows.advance(sessions.two, [at(new, 7)])))
    new.last_seq = 3
    seen.append(len(await lane_rows.advance(sessions.two, [at(new, 8)])))
    async with sessions.two.transaction():
        seen.append(len(await lane_rows.fence(sessions.two, [new])))
        seen.append(len(await lane_rows.fence(sessions.two, [old])))
        seen.append(len(await lane_rows.fence(sessions.two, [replace(new, last_seq=0)])))
    seen += [len(await lane_rows.find_owned(sessions.two, [each])) for each in (old, new)]
    return [*seen, told(await lane_rows.acquire(sessions.one, "g", PLACES[:1], "one"))]


async def offsets_never_go_back(sessions: Sessions) -> Seen:
    """Neither the offset nor the mark ever falls."""
    (lane,) = await lane_rows.acquire(sessions.one, "g", PLACES[:1], "one")
    lane.acked_seq = 4
    await lane_rows.advance(sessions.one, [at(lane, 10)])
    lane.acked_seq = 2
    await lane_rows.advance(sessions.one, [at(lane, 6)])
    async with sessions.one.transaction():
        await lane_rows.fence(sessions.one, [lane])
        await lane_rows.move(sessions.one, [lane], {lane.id: 7}, {}, {lane.id: 2})
    return told(await lane_rows.acquire(sessions.one, "g", PLACES[:1], "one"))


async def the_outbox_is_numbered(sessions: Sessions) -> Seen:
    """Rows come back in order, behind a number, up to a limit; their lane knows the last one."""
    one, two = await lane_rows.acquire(sessions.one, "g", PLACES, "one")
    await outbox_rows.insert(sessions.one, [said(one, 1), said(two, 1, "other"), said(one, 2, "y"), said(one, 3, "z")])
    found = [
        await outbox_rows.load_unpublished(sessions.two, one.id, after, limit)
        for after, limit in ((0, 2), (2, 9), (3, 9))
    ]
    again = await lane_rows.acquire(sessions.two, "g", PLACES, "two")
    return [[[(each.seq, each.record.value, each.record.headers) for each in part] for part in found], told(again)]


async def a_claim_waits(sessions: Sessions) -> Seen:
    """A claim waits for the former owner's open transaction, and then sees what it wrote."""
    (lane,) = await lane_rows.acquire(sessions.one, "g", PLACES[:1], "one")
    async with sessions.one.transaction():
        await lane_rows.fence(sessions.one, [lane])
        claiming = asyncio.create_task(lane_rows.acquire(sessions.two, "g", PLACES[:1], "two"))
        await asyncio.sleep(0.3)
        waited = not claiming.done()
        await lane_rows.move(sessions.one, [lane], {lane.id: 5}, {lane.id: RecordChecksum(4, 9)}, {lane.id: 1})
        await outbox_rows.copy(sessions.one, [said(lane, 1)])
    return [waited, told(await claiming)]


async def the_fence_waits(sessions: Sessions) -> Seen:
    """An owner that waits at its lane for a claim is fenced once that is committed."""
    (lane,) = await lane_rows.acquire(sessions.one, "g", PLACES[:1], "one")
    async with sessions.two.transaction():
        await lane_rows.acquire(sessions.two, "g", PLACES[:1], "two")
        moving = asyncio.create_task(lane_rows.fence(sessions.one, [lane]))
        await asyncio.sleep(0.3)
        waited = not moving.done()
    return [waited, len(await moving), len(await lane_rows.advance(sessions.one, [lane]))]


async def rolling_back_leaves_nothing(sessions: Sessions) -> Seen:
    """What a transaction, or a savepoint of one, has written is gone; what others wrote meanwhile is not."""
    one, two = sessions.one, sessions.two
    keys = {(A, "place"), (B, "hold"), (A, "hold")}
    async with _undone(one):
        await rows.save(one, [_row(A)])
    async with one.transaction():
        await rows.save(one, [_row(A, "place")])
        async with _undone(one):
            await rows.save(one, [_row(B)])
        unseen = await rows.load(two, {(A, "place")})
        mine = await rows.load(one, keys)
    return [len(unseen), sorted(mine), sorted(await rows.load(two, keys))]


class UndoError(Exception):
    """What was done is to be rolled back."""


@asynccontextmanager
async def _undone(sql: Connection) -> AsyncGenerator[None]:
    """Roll back what is done in the context."""
    with suppress(UndoError):
        async with sql.transaction():
            yield
            raise UndoError


def _row(saga_id: UUID, step: str = "hold", **fields: Any) -> Row:
    given: dict[str, Any] = {"lane": 1, "status": RowStatus.RETRY, **fields}
    return Row(saga_id, step, **given)


async def rows_are_compared_and_set(sessions: Sessions) -> Seen:
    """A row is written once, and changed only by whoever knows it as it is."""
    kept: dict[str, Any] = {"input": b"i", "answer": b"a", "reports": b"{}", "bar_seen": True, "back_round": 2}
    waiting = _row(A, "place", wait=60.0)
    await rows.save(sessions.one, [_row(A, **kept), waiting])
    seen: Seen = [await caught(rows.save(sessions.two, [again])) for again in (_row(A), waiting)]
    known = (await rows.load(sessions.one, {(A, "hold")}))[A, "hold"]
    seen.append(replace(known))
    known.status, known.attempt = RowStatus.INTENT, 2
    await rows.save(sessions.one, [known])
    seen.append(await caught(rows.save(sessions.two, [known])))
    known.known = (RowStatus.INTENT, 2, 0)
    known.status = RowStatus.DONE
    await rows.save(sessions.two, [known])
    return [*seen, (await rows.load(sessions.one, {(A, "hold")}))[A, "hold"].status]


async def the_second_insert_waits(sessions: Sessions) -> Seen:
    """Two owners begin one row: the second waits for the first, and loses if that commits."""
    one, seen = sessions.one, list[Any]()
    async with one.transaction():
        other = await _second(sessions, A, seen)
    seen += [await other, (await rows.load(one, {(A, "hold")}))[A, "hold"].attempt]
    async with one.transaction():
        async with _undone(one):
            await rows.save(one, [_row(B, "place")])
        other = await _second(sessions, B, seen)
    return [*seen, await other, (await rows.load(one, {(B, "hold")}))[B, "hold"].attempt]


async def a_second_insert_wins(sessions: Sessions) -> Seen:
    """Where the first is rolled back, the second, which has waited, is the one that counts."""
    seen: Seen = []
    others: list[asyncio.Task[str]] = []
    async with _undone(sessions.one):
        others.append(await _second(sessions, A, seen))
    return [*seen, await others[0], (await rows.load(sessions.one, {(A, "hold")}))[A, "hold"].attempt]


async def _second(sessions: Sessions, saga_id: UUID, seen: Seen) -> "asyncio.Task[str]":
    """Begin a row twice; the first stays open."""
    await rows.save(sessions.one, [_row(saga_id)])
    other = asyncio.create_task(caught(rows.save(sessions.two, [_row(saga_id, attempt=5)])))
    await asyncio.sleep(0.3)
    seen.append(other.done())
    return other


async def due_rows_are_taken_once(sessions: Sessions) -> Seen:
    """Rows are due by the database's clock, lane and step; one that is locked is passed over."""
    waits = [_row(A, wait=0.0), _row(A, "place", wait=60.0), _row(B, wait=None), _row(B, "place", lane=2, wait=-1.0)]
    await rows.save(sessions.one, waits)
    await asyncio.sleep(0.05)
    seen: Seen = [await rows.next_due(sessions.one, [3], STEPS)]
    for lanes, steps in (([1], STEPS), ([1], ["place"]), ([1, 2], STEPS)):
        wait = await rows.next_due(sessions.one, lanes, steps)
        due = await rows.load_due(sessions.one, lanes, steps, 10)
        seen.append((round(wait or 0, -1), [(row.saga_id, row.step) for row in due]))
    async with sessions.one.transaction():
        await rows.load(sessions.one, {(B, "place")})
        seen.append([row.saga_id for row in await rows.load_due(sessions.two, [1, 2], STEPS, 10)])
    return seen


async def held_rows_are_read_by_page(sessions: Sessions) -> Seen:
    """They are not due, and are read from each lane as many as there is room for, behind those read before."""
    held = [_row(UUID(int=number), lane=1 + number // 5, wait=rows.HELD) for number in range(8)]
    for row in held:
        await rows.save(sessions.one, [row])
        await asyncio.sleep(0.001)
    await rows.save(sessions.one, [_row(A, "place", wait=60.0), _row(B, "place", wait=None)])
    seen: Seen = [round(await rows.next_due(sessions.one, [1, 2], STEPS) or 0, -1)]
    seen += [await rows.next_due(sessions.one, [2], STEPS), await rows.load_due(sessions.one, [1, 2], STEPS, 10)]
    after = {1: rows.HELD_FROM, 2: rows.HELD_FROM, 3: rows.HELD_FROM}
    while after:
        page = await rows.load_held(sessions.two, after, STEPS, 6)
        seen.append(([(row.saga_id, row.lane, row.held) for row in page.rows], sorted(page.lanes)))
        after = page.following
    return [*seen, await rows.load_held(sessions.two, after, STEPS, 6)]


async def a_failed_statement_ends_the_rest(sessions: Sessions) -> Seen:
    """After an error nothing more is done until the savepoint, or the transaction, is rolled back."""
    await rows.save(sessions.one, [_row(A)])
    seen: Seen = []
    async with sessions.one.transaction():
        await rows.save(sessions.one, [_row(B)])
        async with _undone(sessions.one):
            seen.append(await caught(_break(sessions)))
            seen.append(await caught(rows.load(sessions.one, {(A, "hold")})))
        seen.append(len(await rows.load(sessions.one, {(A, "hold"), (B, "hold")})))
    return [*seen, len(await rows.load(sessions.two, {(A, "hold"), (B, "hold")}))]


async def _break(sessions: Sessions) -> None:
    """Wait for a lock for longer than one may."""
    lanes = await lane_rows.acquire(sessions.two, "g", PLACES[:1], "two")
    async with sessions.two.transaction():
        await lane_rows.advance(sessions.two, lanes)
        await lane_rows.acquire(sessions.one, "g", PLACES[:1], "one")


async def crossed_locks_end_one(sessions: Sessions) -> Seen:
    """Of two who wait for each other one is told of a deadlock, and the other goes on."""
    first, second = await lane_rows.acquire(sessions.one, "g", PLACES, "one")

    async def cross(sql: Connection, lanes: Sequence[Lane]) -> None:
        async with sql.transaction():
            await lane_rows.advance(sql, lanes[:1])
            await asyncio.sleep(0.2)
            await lane_rows.advance(sql, lanes[1:])

    names = await asyncio.gather(
        caught(cross(sessions.one, (first, second))), caught(cross(sessions.two, (second, first)))
    )
    return sorted(names)


async def a_broken_session_rolls_back(sessions: Sessions) -> Seen:
    """What was open is rolled back, its locks are free, and the session says that it is closed."""
    (lane,) = await lane_rows.acquire(sessions.one, "g", PLACES[:1], "one")

    async def work() -> None:
        async with sessions.one.transaction():
            await lane_rows.advance(sessions.one, [at(lane, 5)])
            await sessions.cut()
            await lane_rows.advance(sessions.one, [at(lane, 6)])

    raised = await caught(work())
    known = issubclass(getattr(asyncpg, raised), DATABASE_ERRORS)
    return [known, sessions.one.is_closed(), told(await lane_rows.acquire(sessions.two, "g", PLACES[:1], "two"))]


SCRIPTS: Sequence[Callable[[Sessions], Awaitable[Seen]]] = (
    claims_raise_epochs,
    only_the_owner_passes,
    offsets_never_go_back,
    the_outbox_is_numbered,
    a_claim_waits,
    the_fence_waits,
    rolling_back_leaves_nothing,
    rows_are_compared_and_set,
    the_second_insert_waits,
    a_second_insert_wins,
    due_rows_are_taken_once,
    held_rows_are_read_by_page,
    a_failed_statement_ends_the_rest,
    crossed_locks_end_one,
    a_broken_session_rolls_back,
)
