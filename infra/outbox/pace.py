"""Leaves the event loop to others while a batch is worked off: heartbeats to Kafka go through the same loop."""

import asyncio
from typing import Final

TURN: Final = 0.1
"""Seconds after which others get a turn: a sixtieth of the default session time-out."""


class Pace:
    """Counts the time since others had a turn; to be asked before each record."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()

    def is_due(self) -> bool:
        """Return whether others should have a turn."""
        return self._clock() - self._since > TURN

    async def turn(self) -> None:
        """Give others a turn."""
        await asyncio.sleep(0)
        self._since = self._clock()
