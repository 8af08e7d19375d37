"""A process that cannot end by itself is ended: its loop stands still, or a service will not hear of it."""

import asyncio
import subprocess
import sys
import time

from tradesaga.infra.cli.run import watch_event_loop

STANDS_STILL = """
import asyncio, time
from tradesaga.infra.cli.run import watch_event_loop

async def main():
    async with watch_event_loop(look=0.1, missed=5):
        await asyncio.sleep(0.3)
        time.sleep(60)

asyncio.run(main())
"""
WILL_NOT_END = """
import asyncio
from tradesaga.infra.settings import Settings
from tradesaga.infra.cli import run

async def deaf(settings):
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def fails(settings):
    raise LookupError("the consumer is stuck")

run.PATIENCE = 0.3
asyncio.run(run.serve({"deaf": deaf, "fails": fails}, Settings(metrics_port=0)))
"""


def ended(program: str) -> tuple[int, str]:
    """Run a program to its end, which must be soon; give its exit code and what it wrote to stderr."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=40, check=False)
    return done.returncode, (done.stderr + done.stdout).decode()


def test_a_loop_that_stands_still_ends_the_process() -> None:
    """A handler that blocks the loop for good costs its process, whose stacks tell where it stood."""
    code, said = ended(STANDS_STILL)
    assert code == 5
    assert "the event loop is blocked" in said
    assert "line 8 in main" in said


def test_a_service_that_will_not_end_does_not_keep_the_process() -> None:
    """Another one has failed and this one hears no cancellation: the process ends, and says why."""
    code, said = ended(WILL_NOT_END)
    assert code == 5
    assert "the consumer is stuck" in said
    assert "have not ended" in said


async def test_a_loop_that_is_only_slow_is_left_alone() -> None:
    """Turning now and then is enough, though it stands still for longer altogether than would end the process."""
    async with watch_event_loop(look=0.1, missed=20):
        for _ in range(10):
            time.sleep(0.25)  # noqa: ASYNC251 - it is to stand still
            await asyncio.sleep(0.01)
