"""What a process takes while it lives: how late its event loop is, and whether its memory grows."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from statistics import linear_regression, median
from typing import Final

import orjson
import structlog

SAID: Final = "loop lag"
_TURN: Final = 0.1
_TURNS: Final = 50
WARM: Final = 40.0
"""Seconds of a life in which memory may grow as it likes: caches and pools fill."""
LONG: Final = 120.0
"""Seconds of a life beyond these from which a slope says anything."""


@asynccontextmanager
async def feeling_lag() -> AsyncGenerator[None]:
    """Say once in five seconds, in the log, how much too late the event loop came at worst."""
    task = asyncio.create_task(_feel(), name="loop lag")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _feel() -> None:
    logger = structlog.get_logger("drill")
    while True:
        worst = 0.0
        for _ in range(_TURNS):
            due = time.monotonic() + _TURN
            await asyncio.sleep(_TURN)
            worst = max(worst, time.monotonic() - due)
        logger.info(SAID, worst_ms=round(worst * 1000))


def usual_lag(log: Path) -> float:
    """Give the median of the worst lags, in milliseconds: half of the time the loop is never later than this.

    It is not a number (NaN) for a process that has said nothing of it.
    """
    said = (line for line in log.read_bytes().splitlines() if SAID.encode() in line and b"worst_ms" in line)
    lags = [float(orjson.loads(line)["worst_ms"]) for line in said]
    return median(lags) if lags else nan


@dataclass
class Memory:
    """The memory of a process, life by life: its peak in MB, and by how many MB a minute each long life has grown.

    Times are seconds by a clock that only goes forward.
    """

    peak: float = 0.0
    growth: list[float] = field(default_factory=list[float])
    _born: float = 0.0
    _samples: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def begin(self, now: float) -> None:
        """Begin a new life, the last one having ended."""
        times = [at for at, _ in self._samples]
        if times and times[-1] - times[0] >= LONG:
            self.growth.append(linear_regression(times, [mb for _, mb in self._samples]).slope * 60)
        self._samples.clear()
        self._born = now

    def note(self, mb: float, now: float) -> None:
        """Take a sample."""
        self.peak = max(self.peak, mb)
        age = now - self._born
        if age > WARM and (not self._samples or age - self._samples[-1][0] >= 1.0):
            self._samples.append((age, mb))
