"""Leaves the event loop to others while a batch is worked off: heartbeats to Kafka go through the same loop."""

import asyncio
from typing import Final

from infra.clock import elapsed

TURN: Final = 0.1
"""Seconds after which others get a turn: a sixtieth of the default session time-out."""


class Pace:
    """Counts the time since others had a turn; to be asked before each record."""

    def __init__(self) -> None:
        self._since = elapsed()

    async def keep(self) -> None:
        """Give others a turn if it is time for that."""
        if elapsed() - self._since > TURN:
            await asyncio.sleep(0)
            self._since = elapsed()
