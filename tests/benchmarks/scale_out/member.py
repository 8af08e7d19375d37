"""One process of one service, as the product runs it, with a bound on its batches.

`python -m tests.benchmarks.scale_out.member steps | log | bystander BATCH`.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import uvloop

from tests.benchmarks.noop import bench, steps
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.garbage_collection import tune_garbage_collector
from tradesaga.infra.outbox.ownership import owner_name
from tradesaga.infra.outbox.processor import Processor
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import open_pool
from tradesaga.infra.postgres.partitions import maintain_partitions
from tradesaga.infra.settings import load_settings
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.health import serve_probes
from tradesaga.schemas.envelope import Header
from tradesaga.schemas.topics import PARTITIONS


class Bystander(StepProcessor):
    """Routes every fact, as each participant does, and has no use for any: one of another step's service."""

    def __init__(self) -> None:
        super().__init__(steps)
        self.group = f"{bench.name}-bystander"

    def wants(self, topic: str, headers: Sequence[Header]) -> bool:
        """Look at it, and let it pass by."""
        return super().wants(topic, headers) and False


PROCESSORS: Final[Mapping[str, Callable[[], Processor]]] = MappingProxyType(
    {
        "steps": lambda: StepProcessor(steps),
        "log": lambda: SagaLog(Rules(bench, PARTITIONS)),
        "bystander": Bystander,
    }
)
"""What each kind of service runs."""


async def serve(role: str, batch: int) -> None:
    """Work until cancelled."""
    settings, processor = load_settings(), PROCESSORS[role]()
    pool = await open_pool(settings.database_for(), min_size=1, max_size=2, application_name=f"scale {role}")
    async with serve_probes(settings.http_host, settings.metrics_port), pool, maintain_partitions(pool):
        owner = owner_name(role)
        worker = Worker(processor, pool, settings.brokers(), owner, session_ms=settings.session_timeout_ms, batch=batch)
        metrics.register_worker(processor.group, worker.health)
        await worker.run()


if __name__ == "__main__":
    tune_garbage_collector()
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
