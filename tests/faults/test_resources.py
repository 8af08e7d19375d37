"""What the fault run says of a process's memory and event loop."""

import asyncio
import math
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.faults import resources
from tests.faults.resources import LONG, WARM, Memory, feeling_lag, usual_lag
from tests.waiting import until


def live(memory: Memory, seconds: int, growth: float) -> None:
    """Have a process live, growing by so many MB a second."""
    memory.begin(1000.0)
    for second in range(seconds):
        memory.note(100.0 + growth * second, 1000.0 + second)
    memory.begin(2000.0)


def test_a_leak_is_a_slope() -> None:
    """A process that takes half a megabyte a second grows by thirty a minute."""
    memory = Memory()
    live(memory, 200, 0.5)
    assert memory.growth == [pytest.approx(30.0)]
    assert memory.peak == pytest.approx(199.5)


def test_a_short_life_has_no_slope() -> None:
    """While a process gets warm, and for some time after, nothing can be said."""
    memory = Memory()
    live(memory, int(WARM + LONG) - 2, 5.0)
    assert memory.growth == []


async def test_a_blocked_loop_is_felt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback that holds the loop for a tenth of a second is told as that."""
    monkeypatch.setattr(resources, "_TURN", 0.01)
    monkeypatch.setattr(resources, "_TURNS", 5)
    with capture_logs() as logs:

        async def told() -> bool:
            return bool(logs)

        async with feeling_lag():
            await asyncio.sleep(0.02)
            _block(0.1)
            await until(told)
    assert max(line["worst_ms"] for line in logs) >= 80


def test_the_usual_lag_is_the_median(tmp_path: Path) -> None:
    """One bad moment among many does not count; a process that has said nothing has no lag."""
    log = tmp_path / "desk1.log"
    log.write_text("no JSON\n" + "".join(f'{{"worst_ms": {ms}, "event": "loop lag"}}\n' for ms in (10, 9000, 30)))
    assert usual_lag(log) == 30
    log.write_text("no JSON\n")
    assert math.isnan(usual_lag(log))


def _block(seconds: float) -> None:
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        continue
