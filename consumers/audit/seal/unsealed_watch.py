"""Watches for how long records wait for their seal: a metric, `/readyz`, and a line in the log when it is too long."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from tradesaga.infra.clock import Clock, SystemClock
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.worker_health import Health

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
