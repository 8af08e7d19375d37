"""Before starts are sent in from a command: whether there is room for them in the pipeline, or how long until then."""

import asyncio
from typing import Final

from tradesaga.infra.clock import elapsed
from tradesaga.infra.errors import unavailable
from tradesaga.infra.kafka.backpressure import Pipeline
from tradesaga.infra.postgres.database import Pool

_LOOK: Final = 1.0
"""Seconds that an answer is good for."""
PATIENCE: Final = 60.0
"""Seconds that many starts, once some are in, wait for the pipeline to catch up."""


class Congestion:
    """Asked before each batch of starts: the first is refused at once where there is no room, later ones wait."""

    def __init__(self, pipeline: Pipeline, pool: Pool) -> None:
        self._pipeline = pipeline
        self._pool = pool
        self._looked = float("-inf")
        self._begun = False

    async def pass_by(self) -> None:
        """Return once there is room. Raises `CommandError` (exit 5) when there is none in time."""
        until = elapsed() + (PATIENCE if self._begun else 0.0)
        while elapsed() - self._looked > _LOOK:
            why = await self._pipeline.look(self._pool)
            if not why:
                self._looked, self._begun = elapsed(), True
                return
            if elapsed() >= until:
                do = "give the same requests again later, keys and all: none is started twice"
                raise unavailable("behind", f"nothing new is begun now: {why}", "tradesaga start", do)
            await asyncio.sleep(_LOOK / 2)
