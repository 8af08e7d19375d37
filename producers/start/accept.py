"""How HTTP and the command line start sagas: the request, its start in the outbox, and a verdict in one transaction."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tradesaga.infra.clock import elapsed
from tradesaga.infra.errors import unavailable
from tradesaga.infra.outbox.batch_writer import OutboxTransaction
from tradesaga.infra.postgres.database import Pool
from tradesaga.infra.starts.accept import Accepted, Conflict, Same, Start, StartResult, accept
from tradesaga.infra.starts.backpressure import PipelineLag
from tradesaga.infra.telemetry.metrics import STARTS
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.identity import RequestKeys

_VALID: Final = 1.0
"""Seconds for which a result is used again."""
PATIENCE: Final = 60.0
"""Seconds that starts wait for the pipeline to catch up, once some have been accepted."""


class StartBackpressure:
    """Checked before each batch of starts: the first is rejected at once while the pipeline lags, later ones wait."""

    def __init__(self, lag: PipelineLag, pool: Pool) -> None:
        self._lag = lag
        self._pool = pool
        self._checked = float("-inf")
        self._begun = False

    async def wait(self) -> None:
        """Return once the pipeline does not lag. Raises `CommandError` (exit 5) when that takes too long."""
        until = elapsed() + (PATIENCE if self._begun else 0.0)
        while elapsed() - self._checked > _VALID:
            why = await self._lag.find(self._pool)
            if not why:
                self._checked, self._begun = elapsed(), True
                return
            if elapsed() >= until:
                do = "send the same requests again later, with the same keys: none is started twice"
                raise unavailable("behind", f"no saga is started now: {why}", "tradesaga start", do)
            await asyncio.sleep(_VALID / 2)


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
