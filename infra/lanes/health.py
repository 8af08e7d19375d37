"""What a watchdog and the probes ask of a worker."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Health:
    """What a watchdog asks of a worker; times are `time.monotonic()` seconds."""

    polled: float = field(default_factory=time.monotonic)
    committed: float = field(default_factory=time.monotonic)
    lanes: int = 0
    ready: bool = False
    halted: str = ""
    batches: int = 0
    records: int = 0
    fenced: int = 0
    restarts: int = 0
