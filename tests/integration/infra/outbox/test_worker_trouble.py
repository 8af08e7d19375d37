# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateImportUsage=false
"""Batches that meet conflicts, and rows that the broker will not have: neither stops a lane."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest
import pytest_asyncio
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from pydantic import SecretStr

from tests.conftest import Stack
from tests.e2e import messages as m
from tests.e2e.harness import Bench, open_bench
from tests.sagas import new_saga
from tests.waiting import until
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.infra.errors import CommandError
from tradesaga.infra.outbox.processor import ConflictError, Received, Transaction
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.settings import Settings
from tradesaga.producers.operator.actions import resend
from tradesaga.schemas.topics import PARTITIONS, events_topic

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

SMALL = 3000
"""Bytes of a record batch that the broker of the second test takes."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(stack: Stack, module_database_url: str) -> AsyncIterator[Bench]:
    """Give a bench with nothing running on it."""
    async with open_bench(stack.kafka, module_database_url) as bench:
        yield bench


class Quarrelsome(StepProcessor):
    """Meets a conflict whenever a batch holds more than `most` records."""

    most = 2

    def take_note(self) -> list[int]:
        """Have the sizes of the batches it was given noted."""
        self.sizes: list[int] = []
        return self.sizes

    async def apply(self, transaction: Transaction, received: Sequence[Received]) -> None:
        """Judge a small batch, refuse a large one."""
        self.sizes.append(len(received))
        await super().apply(transaction, received)
        if len(received) > self.most:
            raise ConflictError


async def test_a_batch_that_keeps_meeting_conflicts_is_halved(bench: Bench) -> None:
    """All of its sagas are dealt with once, nothing is judged twice, and the worker has not started over."""
    sagas = [await bench.ask() for _ in range(20)]
    processor = Quarrelsome(bench.kit.desk)
    sizes = processor.take_note()
    running = bench.run(processor)
    for saga_id in sagas:
        assert len(await bench.heard(saga_id, m.Paid)) == 1
        assert await bench.effects(saga_id) == [("book", "forward"), ("pay", "forward")]
    assert max(sizes) > Quarrelsome.most
    assert running.worker.health.restarts == 0
    await bench.stop()


async def test_one_record_that_keeps_meeting_conflicts_starts_the_session_over(bench: Bench) -> None:
    """Nothing smaller can be tried: the lanes are claimed anew, with a pause that grows, until the conflict is gone."""
    processor = Quarrelsome(bench.kit.desk)
    processor.most = 0
    processor.take_note()
    running = bench.run(processor)
    saga_id = await bench.ask()

    async def started_over() -> bool:
        return running.worker.health.restarts > 1

    await until(started_over)
    processor.most = 10
    await bench.heard(saga_id, m.Booked)
    await bench.stop()


def set_largest(kafka: str, topic: str, size: int) -> None:
    """Have the broker refuse record batches of a topic beyond a size."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": kafka})
    for changed in admin.incremental_alter_configs([resource]).values():
        changed.result()


async def resend_once_accepted(sql: Connection, settings: Settings, lane: int, seq: int) -> None:
    """Resend a row as soon as the broker takes it: it confirms an altered setting before its log has it."""

    async def resent() -> bool:
        with suppress(CommandError):
            await resend(sql, settings, lane, seq)
            return True
        return False

    await until(resent)


async def test_a_row_the_broker_refuses_for_good_is_parked_and_its_lane_goes_on(bench: Bench) -> None:
    """The row is set aside together with the mark; the saga behind it is not held up; `resend` publishes it later."""
    large, small = new_saga(0, PARTITIONS), new_saga(0, PARTITIONS)
    topic = events_topic(bench.saga.name)
    await bench.ask(large, note="x" * 2 * SMALL)
    set_largest(bench.kafka, topic, SMALL)
    try:
        await bench.serve(bench.kit.desk)

        async def parked() -> bool:
            return await bench.pool.fetchval("SELECT count(*) > 0 FROM parked WHERE saga_id = $1", large)

        await until(parked, 30)
        await bench.ask(small)
        await bench.heard(small, m.Booked)
        assert bench.tail.of(large, m.Booked) == []
    finally:
        set_largest(bench.kafka, topic, 1024 * 1024)
    row = await bench.pool.fetchrow('SELECT * FROM parked WHERE saga_id = $1 ORDER BY "offset" LIMIT 1', large)
    assert row is not None
    assert row["group"] == f"{bench.kit.desk.group} outbox"
    assert f"tradesaga resend {-row['partition']} {row['offset']}" in row["reason"]
    marks = "SELECT published_seq FROM lane WHERE id = $1"
    assert await bench.pool.fetchval(marks, -row["partition"]) >= row["offset"]
    settings = Settings(kafka=bench.kafka, database_url=SecretStr(bench.url))
    async with bench.pool.acquire() as sql:
        await resend_once_accepted(sql, settings, -row["partition"], row["offset"])
        with pytest.raises(CommandError, match="already"):
            await resend(sql, settings, -row["partition"], row["offset"])
    (booked, *_) = await bench.heard(large, m.Booked)
    assert booked.value == row["value"]
    await bench.stop()
