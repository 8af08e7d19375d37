"""What the saga log asks of PostgreSQL, as scripts."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

from tests.sagas import small_saga
from tests.simulation.rigs import Sessions
from tests.simulation.sql_scripts import caught
from tradesaga.consumers.runtime import processor
from tradesaga.consumers.saga_log import store
from tradesaga.consumers.saga_log.fold import Entry, FoldResult, Released
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Parked, SagaSnapshot, Tracked
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.sagas.status import Status

A, B = UUID(int=1, version=4), UUID(int=2, version=4)
NOW = 1_000_000_000_000
LATER = 4_000_000_000_000
"""Milliseconds: long past, and long to come, by either clock."""
LANE = Lane(1, "small.events", 0, epoch=3, next_offset=0, last_seq=0, acked_seq=0)
RULES = Rules(small_saga())


def checkpoint(**fields: Any) -> SagaSnapshot:
    """Make the checkpoint of a saga just begun."""
    given: dict[str, Any] = {
        "version": 1, "state": RULES.machine.begin(), "status": Status.IDLE, "context": b'{"a":{"b":1}}',
        "request_hash": "h", "seq": 1, "head": b"h", "created_ms": NOW, "updated_ms": NOW, "deadline_ms": NOW,
        "deadline_pending": True, **fields,
    }  # fmt: skip
    return SagaSnapshot(**given)


def record(offset: int, value: bytes = b"{}") -> Record:
    """Make a record of the events topic."""
    return Record("small.events", 0, offset, NOW + offset, str(A).encode(), value, [("ce_type", b"x")])


async def checkpoints_are_upserted(sessions: Sessions) -> list[Any]:
    """The second write changes the first; one that is sealed leaves the progress alone."""
    one, two = sessions.one, sessions.two
    await store.write(one, RULES, [(1, Tracked(A, 0, checkpoint())), (1, Tracked(B, 0, checkpoint(seq=4)))])
    begun = RULES.machine.begin()._replace(started=True, done=1)
    await store.write(one, RULES, [(2, Tracked(A, 0, checkpoint(state=begun, seq=2, status=Status.RUNNING)))])
    seen: list[Any] = [await store.load(two, RULES, [A, B, UUID(int=9)])]
    await store.write(two, RULES, [(2, Tracked(A, 0, checkpoint(sealed=True, seq=3, deadline_pending=False)))])
    return [*seen, await store.load(one, RULES, [A])]


async def deadlines_are_found(sessions: Sessions) -> list[Any]:
    """Those that have passed, of these lanes, the earliest first; none once they are published."""
    sagas = [(A, 1, NOW - 86_400_000), (B, 1, NOW - 2 * 86_400_000), (UUID(int=3), 2, LATER)]
    rows = [(lane, Tracked(saga, 0, checkpoint(deadline_ms=at))) for saga, lane, at in sagas]
    await store.write(sessions.one, RULES, rows)
    seen: list[Any] = [await store.find_due(sessions.one, lanes, 9) for lanes in ([1], [2], [1, 2])]
    seen += [await store.find_due(sessions.one, [1], 1), await store.next_due_in(sessions.one, [7])]
    waits = [await store.next_due_in(sessions.one, lanes) for lanes in ([1], [2])]
    await store.write(sessions.one, RULES, [(1, Tracked(B, 0, checkpoint(deadline_pending=False)))])
    return [*seen, [(wait or 0) > 0 for wait in waits], await store.find_due(sessions.two, [1], 9)]


async def a_record_is_entered_once(sessions: Sessions) -> list[Any]:
    """A second row for one record is an error, and takes the whole batch with it."""
    entry = Entry("{}", "x", "hold", 1, 2, b"h", 1, "added", None)
    outcomes = [(LANE, FoldResult(record(offset), Tracked(A, 0), entry)) for offset in (1, 2)]
    seen = [await caught(store.enter(sessions.one, outcomes)), await caught(store.enter(sessions.two, outcomes[1:]))]
    fresh = (LANE, FoldResult(record(3), None, entry))
    seen.append(await caught(store.enter(sessions.two, [fresh, outcomes[0]])))
    return [*seen, await caught(store.enter(sessions.two, [fresh]))]


async def parked_records_wait_in_order(sessions: Sessions) -> list[Any]:
    """They are found by saga and partition, oldest first, until they are let go."""
    waiting = [Parked(record(offset, b"\x00%d" % offset), f"why {offset}") for offset in (5, 3, 4)]
    await store.park(sessions.one, "g", [(A, each) for each in waiting])
    seen: list[Any] = [await store.parked_sagas(sessions.two, "g", "small.events", [0])]
    for group, topic, partition in (("h", "small.events", 0), ("g", "x", 0), ("g", "small.events", 1)):
        seen.append(await store.parked_sagas(sessions.two, group, topic, [partition]))
    seen.append(await store.load_parked(sessions.two, "g", [A, B]))
    entry = Entry("{}", "x", None, 1, 2, b"h")
    outcome = FoldResult(
        record(9), None, entry, released=(Released(waiting[1], "retry"), Released(waiting[2], "discard"))
    )
    await store.release(sessions.one, "g", [outcome])
    return [*seen, await store.load_parked(sessions.two, "g", [A])]


async def nothing_is_held(sessions: Sessions) -> list[Any]:
    """Where nobody has paused anything there is no row."""
    return list(await sessions.one.fetch(processor.PAUSES))


SAGA_SCRIPTS: Sequence[Callable[[Sessions], Awaitable[list[Any]]]] = (
    checkpoints_are_upserted,
    deadlines_are_found,
    a_record_is_entered_once,
    parked_records_wait_in_order,
    nothing_is_held,
)
