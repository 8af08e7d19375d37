"""The health of a worker, read by probes, metrics and the watchdog."""

from dataclasses import dataclass, field

from tradesaga.infra.clock import SystemClock, elapsed


@dataclass(slots=True)
class Health:
    """The state of one worker; times are `elapsed()` seconds."""

    polled: float = field(default_factory=elapsed)
    committed: float = field(default_factory=elapsed)
    lanes: int = 0
    ready: bool = False
    halted: str = ""
    batches: int = 0
    records: int = 0
    fenced: int = 0
    restarts: int = 0
    fetches: bool = False
    lag: int = 0
    """Records that this group has not handled, as of some seconds ago."""
    unpublished: int = 0
    """Outbox rows that the broker has not acknowledged, as of some seconds ago."""
    oldest_ms: int = 0
    """The broker's time, in milliseconds, of the oldest fetched record not handled yet; 0 for none."""
    refusing: str = ""
    """Why new starts are rejected; empty if they are not."""
    warning: str = ""
    """A problem that does not stop the worker."""
    warnings: dict[str, str] = field(default_factory=dict[str, str])
    """Warnings by source."""

    def warn(self, source: str, text: str) -> None:
        """Set the warning of one source; an empty text clears it."""
        self.warnings[source] = text
        self.warning = "; ".join(filter(None, self.warnings.values()))

    @property
    def lag_seconds(self) -> float:
        """Age in seconds of the oldest fetched record not handled yet."""
        return max(0.0, SystemClock().now() / 1e9 - self.oldest_ms / 1000) if self.oldest_ms else 0.0

    @property
    def poll_age(self) -> float:
        """Seconds since the worker last polled; 0 for an outbox writer, which does not poll."""
        return elapsed() - self.polled if self.fetches else 0.0
