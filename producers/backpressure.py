"""Backpressure of the HTTP API and of `tradesaga start`, and the limits of both."""

import asyncio
import time
from collections import deque
from typing import Annotated, Final
from uuid import UUID

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tradesaga.infra.clock import elapsed
from tradesaga.infra.errors import CommandError, unavailable
from tradesaga.infra.postgres.database import Pool
from tradesaga.infra.starts.backpressure import Backpressure, PipelineLag
from tradesaga.infra.telemetry.metrics import STARTS_REFUSED, Health

PATIENCE: Final = 60.0
"""Seconds that `tradesaga start` waits for the pipeline to catch up, once some starts have been accepted."""
_VALID: Final = 1.0
"""Seconds for which the result of a check is used again."""
_PAUSE: Final = 0.5
_SAMPLE_SECONDS: Final = 0.2


class Limits(BaseSettings):
    """The limits of the HTTP API, each from TRADESAGA_GATEWAY_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="TRADESAGA_GATEWAY_", frozen=True, extra="ignore")

    body_bytes: Annotated[int, Field(ge=256)] = 16 * 1024
    """Maximum size of a request's body, in bytes."""
    in_flight: Annotated[int, Field(ge=1)] = 10_000
    """Open sagas at which the API answers 429."""
    lag_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Seconds that the saga log or the intake may lag before the API answers 429 and `tradesaga start` exits 5."""
    waiting: Annotated[int, Field(ge=1)] = 2_000
    """Requests waiting to be stored at which the API answers 429."""
    patience_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Seconds for which a request waits to be stored before the API answers 503."""


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


class GatewayBackpressure(Backpressure):
    """The HTTP API's backpressure: it also rejects while its queue is long or its own starts are not yet recorded.

    Checks twice a second while `watch` runs; between two checks its answers cost nothing.
    """

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

    def rejection(self, queued: int) -> CommandError | None:
        """Return and count the error of a request that is rejected now, None if it is accepted.

        `queued` is the number of requests that wait to be stored.
        """
        if queued >= self._limits.waiting:
            reason, code, what = "queue", "too-busy", f"{queued} requests wait to be stored"
        elif self.is_full:
            reason, code, what = "in_flight", "too-busy", self._full()
        elif what := self._late():
            reason, code = "lag", "behind"
        else:
            return None
        STARTS_REFUSED.labels(self._lag.saga, reason).inc()
        return CommandError(code, what, "/v1/trades", "send the same request again later")

    def _full(self) -> str:
        return f"{self.in_flight} trades are in flight"

    def _late(self) -> str:
        late = self.sample_age > self._limits.lag_seconds
        return self.lagging or (f"the saga log is {self.sample_age:.0f} s behind" if late else "")

    async def _check(self) -> None:
        while self._samples:
            if not await self._pool.fetchval("SELECT true FROM saga WHERE saga_id = $1", self._samples[0][1]):
                break
            self._samples.popleft()
        await super()._check()

    def _report(self) -> None:
        self._health.refusing = self._full() if self.is_full else self._late()
