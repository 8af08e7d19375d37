"""Watches the clock of whoever seals: metrics, `/readyz`, and a line in the log when it leaves its tier or returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from tradesaga.infra.audit_log.clock_evidence import ClockEvidence
from tradesaga.infra.audit_log.clock_tier import ClockTier, describe_span
from tradesaga.infra.clock import Clock, SystemClock
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.worker_health import Health


@dataclass
class ClockWatch:
    """Holds each reading of the clock against the tier. Sealing goes on outside it: the checkpoint says so itself."""

    tier: ClockTier
    health: Health
    _outside: bool = False

    def see(self, clock: ClockEvidence) -> None:
        """Take a reading."""
        metrics.CLOCK_ERROR.set(clock.error / 1e9 if clock.error >= 0 else float("nan"))
        outside = self.tier.exceeded(clock.error)
        metrics.CLOCK_OUTSIDE.set(outside)
        if outside != self._outside:
            self._tell(clock, outside=outside)
        self._outside = outside
        self.health.warn("clock", self._warning(clock) if outside else "")

    def _tell(self, clock: ClockEvidence, *, outside: bool) -> None:
        log = structlog.get_logger("sealer")
        if outside:
            log.warning("the clock is outside its tier", why=self._warning(clock), source=clock.source)
        else:
            log.info("the clock is within its tier again", tier=str(self.tier), source=clock.source)

    def _warning(self, clock: ClockEvidence) -> str:
        if clock.error < 0:
            return f"nobody can tell how far the clock is off ({clock.source}); its tier is {self.tier}"
        off = describe_span(clock.error)
        return f"the clock may be off by {off} ({clock.source}); its tier is {self.tier}"


_GRACE_MS: Final = 5_000
"""Since the last pass of the sealer, during which what it has not seen counts as sealed."""


@dataclass
class UnsealedWatch:
    """Holds the age of the oldest record without a seal against a limit in seconds; sealing goes on all the same."""

    limit: float
    health: Health
    clock: Clock = field(default_factory=SystemClock)
    _oldest: Mapping[str, int] = field(default_factory=dict[str, int])
    _seen_ms: int = 0
    _late: frozenset[str] = frozenset()

    def see(self, topics: Mapping[str, str], oldest: Mapping[str, int]) -> None:
        """Take what a pass has left: `topics` by saga, and by topic the broker's time of the oldest record, if any."""
        self._oldest, self._seen_ms = dict(oldest), self._now_ms()
        ages = {saga: self._age(topic) for saga, topic in topics.items()}
        for saga, topic in topics.items():
            metrics.UNSEALED.labels(saga).set_function(partial(self._age, topic))
        late = {saga: f"records of {saga} have waited {age:.0f} s for their seal" for saga, age in ages.items()}
        late = {saga: why for saga, why in late.items() if ages[saga] > self.limit}
        log = structlog.get_logger("sealer")
        for saga in sorted(late.keys() - self._late):
            log.warning("records are not sealed in time", why=late[saga], limit_seconds=self.limit)
        for saga in sorted(self._late - late.keys()):
            log.info("records are sealed in time again", saga=saga)
        self._late = frozenset(late)
        self.health.warn("unsealed", "; ".join(late.values()))

    def _age(self, topic: str) -> float:
        """Return the seconds that the oldest record has waited; a sealer that does not come by seals nothing."""
        now = self._now_ms()
        since = self._oldest.get(topic)
        if since is None:
            since = self._seen_ms if now - self._seen_ms > _GRACE_MS else now
        return max(0.0, (now - since) / 1000)

    def _now_ms(self) -> int:
        return self.clock.now() // 1_000_000
