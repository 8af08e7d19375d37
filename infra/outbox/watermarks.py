"""Watermarks of what was consumed and published, saved when no batch saves them."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import asyncpg
import structlog

from tradesaga.infra.failpoints import Failpoint, reach
from tradesaga.infra.outbox import lane_rows
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.processor import InDoubtError
from tradesaga.infra.outbox.publish import Publisher, PublishError
from tradesaga.infra.postgres.database import Connection

LEAVING = 2.0
"""Seconds that an owner waits for the broker before it gives up its lanes."""


class Watermarks:
    """The watermarks of one owner's lanes; without them the next owner would reprocess finished work."""

    def __init__(self, sql: Connection, publisher: Publisher, lanes: Sequence[Lane]) -> None:
        self._sql = sql
        self._publisher = publisher
        self._lanes = lanes
        self._saved = self._sum()

    def _sum(self) -> int:
        """Return a number that grows with every watermark."""
        return sum(lane.acked_seq + lane.next_offset for lane in self._lanes)

    async def save(self) -> None:
        """Save the watermarks if they have moved. Raises `InDoubtError` when a lane has a new owner."""
        moved = self._sum()
        if moved == self._saved:
            return
        reach(Failpoint.BEFORE_MARK)
        alive = await lane_rows.advance(self._sql, self._lanes, {})
        reach(Failpoint.AFTER_MARK)
        self._saved = moved
        for lane in self._lanes:
            if lane.id in alive:
                lane.stored_offset = lane.next_offset
        if len(alive) < len(self._lanes):
            raise InDoubtError("another owner has acquired a lane")

    async def leave(self) -> None:
        """Save the watermarks for the next owner if broker and database are available; else it repeats some work."""
        try:
            async with asyncio.timeout(LEAVING):
                with suppress(PublishError):  # earlier acknowledgements still count
                    await self._publisher.drain()
                await self.save()
        except InDoubtError as error:
            structlog.get_logger("worker").info("lanes released without saving watermarks", why=str(error))
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return
