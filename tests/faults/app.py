"""The services of the drill, run as any user's: `tradesaga run desk --app tests.faults.app`.

Beside the servers, which the settings name, the environment says where the exchange is, which version of the
definition this process knows, which file holds the seconds by which its clock is off, and which file names the
failpoint at which it is to stop or die (`stop:before_commit:3`, read at SIGUSR1).
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from tests.faults.desk import make_desk
from tests.faults.market import Far, make_market
from tests.faults.resources import feeling_lag
from tests.faults.saga import Drill, make_drill
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra import failpoints
from tradesaga.infra.failpoints import Failpoint
from tradesaga.infra.outbox.processor import Processor
from tradesaga.infra.outbox.worker import Worker
from tradesaga.infra.postgres.database import open_pool
from tradesaga.infra.postgres.partitions import maintain_partitions
from tradesaga.infra.settings import Settings, load_settings
from tradesaga.infra.starts.request_keys import read_request_keys
from tradesaga.infra.telemetry import metrics
from tradesaga.producers.gateway import service as gateway

EXCHANGE: Final = "DRILL_EXCHANGE"
VERSION: Final = "DRILL_VERSION"
CLOCK: Final = "DRILL_CLOCK"
ORDERS: Final = "DRILL_ORDERS"
_LOOK: Final = 0.2
"""Seconds between two looks at the clock's file."""


class JumpingClock:
    """The machine's clock, off by as many seconds as a file says."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0
        self._looked = 0.0

    def now(self) -> int:
        """Give nanoseconds since 1970 UTC, as this process believes."""
        if time.monotonic() - self._looked > _LOOK:
            self._looked = time.monotonic()
            text = self._file.read_text() if self._file.exists() else ""
            self._offset = int(float(text or 0) * 1e9)
        return time.time_ns() + self._offset


def drill() -> Drill:
    """Define the saga under the version that this process knows."""
    return make_drill(int(os.environ.get(VERSION, "1")))


async def work(make: Callable[[JumpingClock], Processor], settings: Settings) -> None:
    """Run one processor until cancelled, with a clock that may jump and a place to stop at."""
    processor = make(JumpingClock(Path(os.environ[CLOCK])))
    pool = await open_pool(settings.database_for(), max_size=2, application_name=f"tradesaga {processor.group}")
    async with pool, maintain_partitions(pool):
        owner = f"{processor.group}@{os.getpid()}"
        worker = Worker(processor, pool, settings.brokers(), owner, session_ms=settings.session_timeout_ms)
        metrics.register_worker(processor.group, worker.health)
        with _ordered(Path(os.environ[ORDERS])):
            async with feeling_lag():
                await worker.run()


def _desk(clock: JumpingClock) -> Processor:
    return StepProcessor(make_desk(drill()), clock=clock)


def _market(clock: JumpingClock) -> Processor:
    return StepProcessor(make_market(drill(), Far(os.environ[EXCHANGE])), clock=clock)


def _log(clock: JumpingClock) -> Processor:
    return SagaLog(Rules(drill().saga), clock)


def _intake(clock: JumpingClock) -> Processor:
    return Intake(drill().saga, read_request_keys(load_settings().request_keys_file()), clock)


async def _door(settings: Settings) -> None:
    async with feeling_lag():
        await gateway.serve(settings, drill().saga)


@contextmanager
def _ordered(file: Path) -> Generator[None]:
    """Stop or kill this process, at SIGUSR1, at the failpoint that the file names, the n-th time it is reached."""
    left: list[tuple[signal.Signals, Failpoint, int]] = []

    def arm() -> None:
        left.clear()
        if not (order := file.read_text()):  # it was taken back while this process stood still
            return
        action, name, count = order.split(":")
        left[:] = [(signal.SIGSTOP if action == "stop" else signal.SIGKILL, Failpoint(name), int(count))]

    def reached(failpoint: Failpoint) -> None:
        if not left or left[0][1] is not failpoint:
            return
        if not file.read_text():  # the order has been taken back
            left.clear()
            return
        number, _, count = left[0]
        left[0] = (number, failpoint, count - 1)
        if count <= 1:
            left.clear()
            structlog.get_logger("drill").info("so ordered", failpoint=failpoint, signal=number.name)
            os.kill(os.getpid(), number)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, arm)
    try:
        if failpoints.VARIABLE in os.environ:
            yield
        else:
            with failpoints.listen(reached):
                yield
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


services: dict[str, Callable[[Settings], Awaitable[None]]] = {
    "desk": partial(work, _desk),
    "market": partial(work, _market),
    "log": partial(work, _log),
    "front": partial(work, _intake),
    "door": _door,
}
