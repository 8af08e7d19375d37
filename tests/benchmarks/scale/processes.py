"""The services of a part, each a process of its own that can be asked whether it is ready, ended, and killed."""

import json
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.benchmarks.stage import Stage
from tradesaga.infra.local_stack.ports import free_port

ROOT = Path(__file__).parents[3]
_TRADESAGA = str(Path(sys.executable).parent / "tradesaga")
WAITING = ((_TRADESAGA, "run", "waiting-steps"), (_TRADESAGA, "run", "waiting-log"))
INTAKE = (_TRADESAGA, "run", "bench-intake")
LOG = (_TRADESAGA, "run", "bench-log")
STEPS = (_TRADESAGA, "run", "bench-steps")
START_LIMIT = 120.0


@dataclass
class Service:
    """One process; `began` is when it was started, by this machine's monotonic clock."""

    name: str
    process: psutil.Popen
    port: int
    began: float

    @property
    def ready(self) -> bool:
        """Say whether it has claimed its lanes."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                told = json.load(answer)
        except (urllib.error.URLError, OSError):
            return False
        # A process that has no worker yet has none that is not ready.
        return bool(told["ready"] and told["workers"])

    def await_ready(self) -> float:
        """Wait until it is ready; give the seconds since it was started."""
        while not self.ready:
            self.check()
            if time.monotonic() - self.began > START_LIMIT:
                raise TimeoutError(f"{self.name} is not ready after {START_LIMIT:.0f} seconds")
            time.sleep(0.02)
        return time.monotonic() - self.began

    def check(self) -> None:
        """Raise if it has ended by itself."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} has ended by itself; its words are in the stage's folder, services.log")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal and wait until it is gone."""
        self.process.send_signal(how)
        self.process.wait(40)


def start(stage: Stage, command: Sequence[str], environment: Mapping[str, str]) -> Service:
    """Start a service with a metrics port of its own."""
    port = free_port()
    with (stage.home / "services.log").open("ab") as log:
        began = time.monotonic()
        own = {**environment, "TRADESAGA_METRICS_PORT": str(port)}
        process = psutil.Popen(list(command), env=own, cwd=ROOT, stdout=log, stderr=log)
    return Service(command[-1], process, port, began)


def stop(services: Iterable[Service]) -> None:
    """End those that still run."""
    running = [service for service in services if service.process.poll() is None]
    for service in running:
        service.process.terminate()
    for service in running:
        service.process.wait(40)


@contextmanager
def running(stage: Stage, commands: Sequence[Sequence[str]], app: str) -> Generator[list[Service]]:
    """Run services until the body ends; what the body adds to the list is ended too."""
    environment = environment_of(stage, app)
    services = [start(stage, command, environment) for command in commands]
    try:
        for service in services:
            service.await_ready()
        yield services
        for service in services:
            if service.process.poll() not in (None, 0, -signal.SIGKILL):
                service.check()
    finally:
        stop(services)


def environment_of(stage: Stage, app: str) -> dict[str, str]:
    """Give what a service of the saga in module `app` needs to know."""
    return {**stage.environment, "PYTHONPATH": str(ROOT), "TRADESAGA_APP": app, "TRADESAGA_HOME": str(stage.home)}
