"""The gateway's backpressure: it also rejects while its own queue is long or its own starts are not yet recorded."""

import time
from collections import deque
from typing import Final
from uuid import UUID

from tradesaga.infra.postgres.database import Pool
from tradesaga.infra.starts.backpressure import Backpressure, PipelineLag
from tradesaga.infra.telemetry.metrics import STARTS_REFUSED, Health
from tradesaga.producers.gateway.refusal import Refusal, refuse
from tradesaga.producers.limits import Limits

_PAUSE: Final = 0.5
_SAMPLE_SECONDS: Final = 0.2


class GatewayBackpressure(Backpressure):
    """Checks twice a second while `watch` runs; between two checks its answers cost nothing."""

    def __init__(self, pool: Pool, limits: Limits, lag: PipelineLag, health: Health) -> None:
        super().__init__(lag, pool, limits.in_flight, pause=_PAUSE)
        self._limits = limits
        self._health = health
        self._samples: deque[tuple[float, UUID]] = deque()

    @property
    def sample_age(self) -> float:
        """The age in seconds of the oldest accepted start that is not known to be recorded."""
        return time.monotonic() - self._samples[0][0] if self._samples else 0.0

    def accepted(self, saga_id: UUID) -> None:
        """Note a new saga; a few of them a second are followed until the saga log has them."""
        now = time.monotonic()
        if not self._samples or now - self._samples[-1][0] > _SAMPLE_SECONDS:
            self._samples.append((now, saga_id))

    def refusal(self, queued: int) -> Refusal | None:
        """Return the answer to a request that is rejected now, None if it is accepted; `queued` wait to be stored."""
        if queued >= self._limits.waiting:
            return self._refuse("queue", f"{queued} requests wait to be stored")
        if self.is_full:
            return self._refuse("in_flight", self._full())
        if late := self._late():
            return self._refuse("lag", late)
        return None

    def _full(self) -> str:
        return f"{self.in_flight} trades are in flight"

    def _late(self) -> str:
        late = self.sample_age > self._limits.lag_seconds
        return self.lagging or (f"the saga log is {self.sample_age:.0f} s behind" if late else "")

    def _refuse(self, reason: str, what: str) -> Refusal:
        STARTS_REFUSED.labels(self._lag.saga, reason).inc()
        code = "behind" if reason == "lag" else "too-busy"
        return refuse(429, code, what, "/v1/trades", "send the same request again later", Retry_After="1")

    async def _check(self) -> None:
        while self._samples:
            if not await self._pool.fetchval("SELECT true FROM saga WHERE saga_id = $1", self._samples[0][1]):
                break
            self._samples.popleft()
        await super()._check()

    def _report(self) -> None:
        self._health.refusing = self._full() if self.is_full else self._late()
