"""One batch judged by hand, inside one transaction: for tests that must say what meets in it."""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tests.copies import copies
from tests.e2e.harness import Bench
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.infra.clock import SystemClock, format_time, new_id
from tradesaga.infra.kafka.codec import Outgoing, Record
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.infra.outbox import lane_rows
from tradesaga.infra.outbox.commit import write
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.processor import Processor, Received, Transaction
from tradesaga.infra.postgres.database import Connection
from tradesaga.schemas.envelope import Envelope, splice
from tradesaga.schemas.messages.message import Command, Message, wire_type
from tradesaga.schemas.topics import PARTITIONS

_NUMBERED = re.compile(r"__asyncpg_savepoint_\w+")


async def commit_batch(
    sql: Connection, processor: Processor, lanes: dict[int, Lane], received: Sequence[Received]
) -> list[Outgoing]:
    """Commit one batch as a worker does that owns all lanes, and give what it says."""
    async with sql.transaction():
        assert await lane_rows.fence(sql, list(lanes.values())) == lanes.keys()
        transaction = Transaction(sql, lanes)
        await processor.apply(transaction, received)
        await write(transaction, {}, {})
    for row in transaction.rows:
        lanes[row.lane].last_seq = row.seq
    processor.committed()
    return [row.record for row in transaction.rows]


@dataclass
class Direct:
    """A processor that owns its lanes, without a worker; `statements` counts what the last batch sent."""

    processor: StepProcessor
    sql: Connection
    lanes: dict[int, Lane]
    saga: str
    statements: list[str] = field(default_factory=list[str])
    offset: int = 0

    def record(self, saga_id: UUID, message: Message, context: bytes | None = None, **fields: Any) -> Received:
        """Make the next record of a saga."""
        value = message.to_wire()
        given = context if context is not None else splice(b"", message.NAME, value)
        envelope = Envelope(
            type=wire_type(self.saga, type(message)), id=str(new_id()), source="/test", saga_id=str(saga_id),
            time=format_time(SystemClock().now()), context=given, **fields,
        )  # fmt: skip
        topic = self.processor.topics[isinstance(message, Command)]
        key = str(saga_id).encode()
        place = (topic, partition_of(key, PARTITIONS))
        self.offset += 1
        lane = next(lane.id for lane in self.lanes.values() if (lane.topic, lane.partition) == place)
        return Received(lane, Record(*place, self.offset, 0, key, value, envelope.to_headers()))

    async def judge(self, *received: Received) -> list[Outgoing]:
        """Commit one batch as a worker would, and give what it says."""
        self.statements.clear()
        said = await commit_batch(self.sql, self.processor, self.lanes, received)
        await asyncio.sleep(0)  # the driver tells of a statement in the loop's next turn
        return said


@asynccontextmanager
async def direct(bench: Bench, processor: StepProcessor) -> AsyncGenerator[Direct]:
    """Claim every lane of the processor's group for a test."""
    places = [(topic, number) for topic in processor.topics for number in range(PARTITIONS)]
    async with bench.pool.acquire() as sql:
        lanes = await lane_rows.acquire(sql, processor.group, places, "direct")
        await processor.open(sql, lanes, lambda: None)
        driven = Direct(processor, sql, {lane.id: lane for lane in lanes}, bench.saga.name)

        def note(logged: Any) -> None:
            driven.statements.append(_NUMBERED.sub("savepoint", logged.query))

        sql.add_query_logger(note)
        try:
            with copies(driven.statements.append):
                yield driven
        finally:
            sql.remove_query_logger(note)
            await processor.close()
            # What is still due is no business of the next test.
            await sql.execute("DELETE FROM step_execution")


def names(said: Sequence[Outgoing]) -> list[str]:
    """Name what was said."""
    return [record.type.split(".")[-2] for record in said]
