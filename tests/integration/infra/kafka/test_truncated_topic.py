"""A broker that has lost the end of a partition, as after an unclean election: nobody goes on from there.

A broker of the test's own is stopped, its segment cut at a batch, and started again.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e import messages as m
from tests.e2e.harness import Bench, open_bench
from tests.integration.infra.outbox.test_guard import halted, members, processors
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.infra.local_stack.kafka import start_kafka, stop_kafka
from tradesaga.infra.local_stack.ports import LOOPBACK
from tradesaga.infra.local_stack.state import KafkaState
from tradesaga.schemas.topics import PARTITIONS, events_topic

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
_BATCH = struct.Struct(">qi")
"""Of a batch of records: the offset of its first, and the bytes that follow."""
_INDEXES = ("*.index", "*.timeindex", "*.snapshot", "leader-epoch-checkpoint")


@dataclass
class Broker:
    """One broker in a folder."""

    home: Path
    state: KafkaState

    @property
    def address(self) -> str:
        """Return where it listens."""
        return f"{LOOPBACK}:{self.state.port}"

    async def lose_end(self, topic: str, partition: int, keep: int) -> None:
        """Stop it, cut a partition off behind its first `keep` batches, and start it again as after a crash."""
        self.state = await asyncio.to_thread(stop_kafka, self.state)
        data = self.home / "kafka" / "data"
        folder = data / f"{topic}-{partition}"
        (segment,) = folder.glob("*.log")
        whole = segment.read_bytes()
        end = 0
        for _ in range(keep):
            end += _BATCH.size + _BATCH.unpack_from(whole, end)[1]
        assert 0 < end < len(whole)
        segment.write_bytes(whole[:end])
        for pattern in _INDEXES:
            for file in folder.glob(pattern):
                file.unlink()
        (data / ".kafka_cleanshutdown").unlink(missing_ok=True)
        self.state = await asyncio.to_thread(start_kafka, self.home, self.state)


@pytest.fixture
async def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    """Yield a broker of the test's own."""
    monkeypatch.setenv("TRADESAGA_KAFKA_HEAP", "192m")
    made = Broker(tmp_path, await asyncio.to_thread(start_kafka, tmp_path, KafkaState()))
    yield made
    await asyncio.to_thread(stop_kafka, made.state)


async def test_a_partition_that_was_cut_off_halts_every_group(broker: Broker, database_url: str) -> None:
    """Before and after it is written on: one sentence, the command, no member, and nothing done once more."""
    async with open_bench(broker.address, database_url) as bench:
        for processor in processors(bench):
            await bench.run(processor).ready()
        saga_id = await bench.ask()
        await bench.settled(saga_id, "COMPLETED")
        await bench.stop()
        calls = await bench.pool.fetchval("SELECT count(*) FROM far_call")
        topic, partition = events_topic(bench.saga.name), partition_of(str(saga_id).encode(), PARTITIONS)
        await broker.lose_end(topic, partition, keep=2)
        await check_halted(bench, f"{topic}[{partition}]: the database is at offset", "the broker holds 0 to 2")
        await bench.call_again()
        for _ in range(await bench.pool.fetchval("SELECT max(next_offset) FROM lane WHERE topic = $1", topic)):
            await bench.say(saga_id, m.Report(report_id="r", kind="later"), context=b"")
        await check_halted(bench, f"{topic}[{partition}] has another record at offset", "unclean leader election")
        assert await bench.pool.fetchval("SELECT count(*) FROM far_call") == calls


async def check_halted(bench: Bench, *sentences: str) -> None:
    """See every group halt outside of Kafka's group, naming the command."""
    for processor in processors(bench):
        running = bench.run(processor)
        why = await halted(running, 60.0)
        for each in (*sentences, "tradesaga recover topics"):
            assert each in why
        assert "\n" not in why
        assert await members(bench.kafka, processor.group) == 0
        await running.stop()
    bench.running.clear()
