"""What a watchdog and the probes ask of a worker."""

from dataclasses import dataclass, field

from tradesaga.infra.clock import SystemClock, elapsed


@dataclass(slots=True)
class Health:
    """What a watchdog asks of a worker; times are `elapsed()` seconds."""

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
    """Records that the broker has and this group has not passed, some seconds ago."""
    unpublished: int = 0
    """Outbox rows that the broker has not acknowledged, some seconds ago."""

    oldest_ms: int = 0
    """The broker's time of the oldest record that was fetched and is not dealt with, milliseconds; 0 for none."""
    refusing: str = ""
    """Why nothing new is taken in."""
    warning: str = ""
    """What a person should know although the work goes on."""
    warnings: dict[str, str] = field(default_factory=dict[str, str])
    """The warning by who has given it."""

    def warn(self, source: str, text: str) -> None:
        """Set one watch's warning, or with an empty text take it back; the others' stay."""
        self.warnings[source] = text
        self.warning = "; ".join(filter(None, self.warnings.values()))

    @property
    def lag_seconds(self) -> float:
        """Give the age of the oldest record that was fetched and is not dealt with."""
        return max(0.0, SystemClock().now() / 1e9 - self.oldest_ms / 1000) if self.oldest_ms else 0.0

    @property
    def poll_age(self) -> float:
        """Give the seconds since the worker last asked for records; 0 for a writer that asks for none."""
        return elapsed() - self.polled if self.fetches else 0.0
