"""The venue's clock: real time that never goes back, not even over a restart."""

import time


class Clock:
    """Nanoseconds since 1970 UTC, at least `floor`."""

    def __init__(self, floor: int = 0) -> None:
        self._last = floor

    def now(self) -> int:
        """Return the time."""
        self._last = max(self._last, time.time_ns())
        return self._last
