"""How busy the system is: sagas under way, and how far the saga log is behind what was accepted here."""

import asyncio
import time
from collections import deque
from typing import Final
from uuid import UUID

import structlog

from tradesaga.infra.kafka.backpressure import Pipeline, count_under_way
from tradesaga.infra.kafka.errors import KafkaUnavailableError
from tradesaga.infra.postgres.database import Pool
from tradesaga.infra.postgres.errors import DATABASE_ERRORS
from tradesaga.infra.telemetry.metrics import STARTS_REFUSED
from tradesaga.infra.telemetry.worker_health import Health
from tradesaga.producers.gateway.refusal import Refusal, refuse
from tradesaga.producers.limits import Limits

_LOOK_SECONDS: Final = 0.5
_SAMPLE_SECONDS: Final = 0.2


class Load:
    """Looks twice a second while `watch` runs; between two looks its answers cost nothing."""

    def __init__(self, pool: Pool, saga: str, limits: Limits, pipeline: Pipeline, health: Health) -> None:
        self._pool = pool
        self._pipeline = pipeline
        self._health = health
        self._behind = ""
        self._saga = saga
        self._limits = limits
        self._in_flight = 0
        self._samples: deque[tuple[float, UUID]] = deque()
        self._log = structlog.get_logger("gateway")

    @property
    def lag(self) -> float:
        """Return the age in seconds of the oldest accepted start that is not known to be recorded."""
        return time.monotonic() - self._samples[0][0] if self._samples else 0.0

    def accepted(self, saga_id: UUID) -> None:
        """Note a new saga; a few of them a second are followed until the saga log has them."""
        now = time.monotonic()
        if not self._samples or now - self._samples[-1][0] > _SAMPLE_SECONDS:
            self._samples.append((now, saga_id))

    def refusal(self, waiting: int) -> Refusal | None:
        """Return why new starts are rejected now, or None; `waiting` is the length of the writer's queue."""
        limits = self._limits
        if waiting >= limits.waiting:
            return self._refuse("queue", f"{waiting} requests wait to be stored")
        if self._in_flight >= limits.in_flight:
            return self._refuse("in_flight", f"{self._in_flight} trades are under way")
        if late := self._late():
            return self._refuse("lag", late)
        return None

    def _late(self) -> str:
        return self._behind or (
            f"the saga log is {self.lag:.0f} s behind" if self.lag > self._limits.lag_seconds else ""
        )

    def _refuse(self, reason: str, what: str) -> Refusal:
        STARTS_REFUSED.labels(self._saga, reason).inc()
        code = "behind" if reason == "lag" else "too-busy"
        return refuse(429, code, what, "/v1/trades", "send the same request again later", Retry_After="1")

    async def watch(self) -> None:
        """Poll until cancelled; while a server does not answer, the last result stands."""
        async with self._pipeline:
            while True:
                try:
                    await self._look()
                    self._behind = await self._pipeline.look(self._pool)
                except (KafkaUnavailableError, *DATABASE_ERRORS) as error:
                    self._log.warning("load unknown", why=f"{type(error).__name__}: {error}")
                full = self._in_flight >= self._limits.in_flight
                self._health.refusing = f"{self._in_flight} trades are under way" if full else self._late()
                await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        self._in_flight = await count_under_way(self._pool, self._saga, self._limits.in_flight)
        while self._samples:
            if not await self._pool.fetchval("SELECT true FROM saga WHERE saga_id = $1", self._samples[0][1]):
                return
            self._samples.popleft()
