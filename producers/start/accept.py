"""How the HTTP API and the command line start sagas: request, start event and result in one transaction."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tradesaga.infra.outbox.batch_writer import OutboxTransaction
from tradesaga.infra.outbox.guard import group_filter_for
from tradesaga.infra.outbox.outbox_writer import OutboxWriter
from tradesaga.infra.outbox.ownership import unique_owner_name
from tradesaga.infra.postgres.database import Pool
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.infra.starts.accept import Accepted, Conflict, Same, Start, StartResult, accept
from tradesaga.infra.telemetry.metrics import STARTS
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.identity import RequestKeys

LANES: Final = ("starts", "http", 16)
"""Group, topic and number of the lanes that all of them share, so that any writer publishes for a dead one."""
_RESULTS: Final = {Accepted: "accepted", Same: "same", Conflict: "conflict"}


def start_writer(settings: Settings, pool: Pool, saga: AnySaga, name: str) -> OutboxWriter:
    """Make the outbox writer of a process that starts sagas; `name` begins its name as an owner of lanes."""
    return OutboxWriter(
        pool,
        settings.brokers(),
        *LANES,
        owner=unique_owner_name(name),
        saga=saga.name,
        group_filter=group_filter_for(settings, SAGA_LOG),
    )


def accepting(
    saga: AnySaga, starts: Sequence[Start], keys: RequestKeys, producer: str
) -> Callable[[OutboxTransaction], Awaitable[list[StartResult]]]:
    """Return the function that a writer runs; `producer` is its name in `ce_source`.

    A start that was stored before is not published again: the outbox has done that.
    """

    async def run(transaction: OutboxTransaction) -> list[StartResult]:
        source, now = f"/{saga.name}/{producer}", time.time_ns()
        results = await accept(transaction.sql, saga, starts, keys=keys, source=source, now=now)
        for result in results:
            if not isinstance(result, Same):
                transaction.publish(result.record)
        return results

    return run


def count(saga: AnySaga, results: Sequence[StartResult]) -> None:
    """Count results, once they are committed."""
    for result in results:
        STARTS.labels(saga.name, _RESULTS[type(result)]).inc()
