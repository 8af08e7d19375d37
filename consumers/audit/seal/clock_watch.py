"""Watches the clock of whoever seals: metrics, `/readyz`, and a line in the log when it leaves its tier or returns."""

from dataclasses import dataclass

import structlog

from tradesaga.infra.audit_log.clock_evidence import ClockEvidence
from tradesaga.infra.audit_log.clock_tier import ClockTier, describe_span
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
