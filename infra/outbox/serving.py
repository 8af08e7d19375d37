"""Makes a group's worker from the settings of its service."""

from tradesaga.infra.audit_log.seals import SealTrust
from tradesaga.infra.outbox.guard import group_filter_for
from tradesaga.infra.outbox.processor import Processor
from tradesaga.infra.outbox.worker import BATCH, Worker
from tradesaga.infra.postgres.database import Pool
from tradesaga.infra.settings import Settings
from tradesaga.infra.telemetry.metrics import register_worker


def make_worker(
    processor: Processor,
    pool: Pool,
    settings: Settings,
    owner: str,
    *,
    service: str,
    trust: SealTrust | None,
    batch: int = BATCH,
) -> Worker:
    """Make the worker of a group that uses the database of `service`, and export its health as metrics."""
    worker = Worker(
        processor,
        pool,
        settings.brokers(),
        owner,
        session_ms=settings.session_timeout_ms,
        batch=batch,
        trust=trust,
        group_filter=group_filter_for(settings, service),
    )
    register_worker(processor.group, worker.health)
    return worker
