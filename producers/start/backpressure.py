"""Backpressure of `tradesaga start`: starts wait, or are rejected, while the pipeline lags."""

import asyncio
from typing import Final

from tradesaga.infra.clock import elapsed
from tradesaga.infra.errors import unavailable
from tradesaga.infra.postgres.database import Pool
from tradesaga.infra.starts.backpressure import PipelineLag

_VALID: Final = 1.0
"""Seconds for which a result is used again."""
PATIENCE: Final = 60.0
"""Seconds that starts wait for the pipeline to catch up, once some have been accepted."""


class StartBackpressure:
    """Checked before each batch of starts: the first is rejected at once while the pipeline lags, later ones wait."""

    def __init__(self, lag: PipelineLag, pool: Pool) -> None:
        self._lag = lag
        self._pool = pool
        self._checked = float("-inf")
        self._begun = False

    async def wait(self) -> None:
        """Return once the pipeline does not lag. Raises `CommandError` (exit 5) when that takes too long."""
        until = elapsed() + (PATIENCE if self._begun else 0.0)
        while elapsed() - self._checked > _VALID:
            why = await self._lag.find(self._pool)
            if not why:
                self._checked, self._begun = elapsed(), True
                return
            if elapsed() >= until:
                do = "send the same requests again later, with the same keys: none is started twice"
                raise unavailable("behind", f"no saga is started now: {why}", "tradesaga start", do)
            await asyncio.sleep(_VALID / 2)
