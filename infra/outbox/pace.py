"""Yields the event loop while a batch is handled: heartbeats to Kafka run on the same loop."""

import asyncio
from typing import Final

TURN: Final = 0.1
"""Seconds after which a batch yields: a sixtieth of the default session timeout."""


class Pace:
    """Measures the time since the last yield; checked before each record."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()

    def is_due(self) -> bool:
        """Return whether it is time to yield."""
        return self._clock() - self._since > TURN

    async def turn(self) -> None:
        """Yield to the event loop."""
        await asyncio.sleep(0)
        self._since = self._clock()
