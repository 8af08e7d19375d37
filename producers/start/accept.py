"""How HTTP and the command line start sagas: the request, its start in the outbox, and a verdict in one transaction."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tradesaga.infra.outbox.batch_writer import OutboxTransaction
from tradesaga.infra.starts.accept import Accepted, Conflict, Same, Start, StartResult, accept
from tradesaga.infra.telemetry.metrics import STARTS
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.request_hash import RequestKeys

LANES: Final = ("starts", "http", 16)
"""Group, topic and number of the lanes that all who start sagas share, so that any of them publishes for the dead."""

_RESULTS: Final = {Accepted: "accepted", Same: "same", Conflict: "conflict"}


def accepting(
    saga: AnySaga, starts: Sequence[Start], keys: RequestKeys, door: str
) -> Callable[[OutboxTransaction], Awaitable[list[StartResult]]]:
    """Make the function that a writer runs; `door` names the way in, for `ce_source`.

    What was stored before is not published again: the outbox has seen to that.
    """

    async def run(transaction: OutboxTransaction) -> list[StartResult]:
        source, now = f"/{saga.name}/{door}", time.time_ns()
        verdicts = await accept(transaction.sql, saga, starts, keys=keys, source=source, now=now)
        for verdict in verdicts:
            if not isinstance(verdict, Same):
                transaction.publish(verdict.record)
        return verdicts

    return run


def count(saga: AnySaga, verdicts: Sequence[StartResult]) -> None:
    """Count verdicts, once they are committed."""
    for verdict in verdicts:
        STARTS.labels(saga.name, _RESULTS[type(verdict)]).inc()
