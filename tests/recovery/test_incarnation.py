"""A new incarnation: numbers that were in use never are again, and what was not published keeps its order."""

from uuid import uuid4

import pytest

from tradesaga.infra.errors import CommandError
from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.outbox import lane_rows, outbox_rows
from tradesaga.infra.outbox.incarnation import begin
from tradesaga.infra.outbox.outbox_rows import OutboxRow
from tradesaga.infra.postgres.database import session

pytestmark = pytest.mark.stack


def row(lane: int, seq: int) -> OutboxRow:
    """Make a row of which only the number matters."""
    return OutboxRow(lane, seq, Outgoing("t", str(seq), uuid4(), "t", [("ce_type", b"t")], b"{}"))


async def test_an_owner_of_the_lost_future_cannot_pass_the_fence(database_url: str) -> None:
    """Epoch and numbers of before the recovery meet nothing, even once the lane has been claimed as often again."""
    async with session(database_url) as sql:
        (asleep,) = await lane_rows.acquire(sql, "g", [("t", 0)], "sleeper")
        await outbox_rows.insert(sql, [row(asleep.id, 1), row(asleep.id, 2), row(asleep.id, 3)])
        asleep.last_seq, asleep.acked_seq = 3, 1
        await lane_rows.advance(sql, [asleep])
        async with sql.transaction():
            first = await begin(sql, "restored", "tester")
        assert await lane_rows.advance(sql, [asleep]) == set()
        (lane,) = await lane_rows.acquire(sql, "g", [("t", 0)], "heir")
        assert (lane.epoch, lane.last_seq, lane.acked_seq) == (first.base + 1, first.base + 2, first.base)
        left = await outbox_rows.load_unpublished(sql, lane.id, lane.acked_seq)
        assert [(each.seq - first.base, each.record.key) for each in left] == [(1, "2"), (2, "3")]
        assert await lane_rows.advance(sql, [asleep]) == set()
        assert await lane_rows.advance(sql, [lane]) == {lane.id}
        async with sql.transaction():
            second = await begin(sql, "restored", "tester")
        assert second.base > lane.last_seq
        assert (
            await sql.fetchval("INSERT INTO lane (\"group\", topic, partition) VALUES ('n', 't', 0) RETURNING id") > 9
        )


async def test_a_clock_that_is_behind_begins_no_life(database_url: str) -> None:
    """Were its numbers below those of before, they would be used twice."""
    async with session(database_url) as sql:
        await lane_rows.acquire(sql, "g", [("t", 0)], "owner")
        await sql.execute("UPDATE lane SET epoch = 1::bigint << 62")
        with pytest.raises(CommandError, match="clock is behind"):
            async with sql.transaction():
                await begin(sql, "restored", "tester")
        assert await sql.fetchval("SELECT count(*) FROM incarnation") == 0
