"""Supervisor of a stack: restarts parts and servers that end."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

import structlog

from tradesaga.infra.errors import CommandError
from tradesaga.infra.local_stack.parts import start_part, stop_parts
from tradesaga.infra.local_stack.process import is_alive
from tradesaga.infra.local_stack.servers import revive_servers
from tradesaga.infra.local_stack.state import read_state
from tradesaga.infra.local_stack.status import own_servers
from tradesaga.infra.telemetry.logs import configure_logs

LOOK_SECONDS = 0.25
FIRST_DELAY = 0.5
LONGEST_DELAY = 10.0
STEADY_SECONDS = 30.0
log = structlog.get_logger("tradesaga.supervisor")


@dataclass(slots=True)
class Backoff:
    """The delay before the next restart of a process that keeps ending; times are monotonic seconds."""

    delay: float = FIRST_DELAY
    started: float = field(default_factory=time.monotonic)
    due: float | None = None

    def is_due(self, now: float) -> bool:
        """Return whether a restart is due; the delay doubles each time the process ends soon after its start."""
        if self.due is None:
            self.delay = FIRST_DELAY if now - self.started > STEADY_SECONDS else min(self.delay * 2, LONGEST_DELAY)
            self.due = now + self.delay
        return now >= self.due

    def restarted(self, now: float) -> None:
        """Record a start."""
        self.started, self.due = now, None


class Supervisor:
    """Watches one stack. Processes that it starts outlive it; another supervisor finds them in the state file."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._stopping = threading.Event()
        self._backoffs: dict[str, Backoff] = {}

    def run(self) -> None:
        """Watch until SIGTERM or SIGINT, then stop the parts; the servers are left running."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._end)
        log.info("supervising", home=str(self._home))
        while not self._stopping.wait(LOOK_SECONDS):
            self._look()
        stop_parts(self._home)
        log.info("stopped", home=str(self._home))

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping.set()

    def _look(self) -> None:
        state = read_state(self._home)
        for name, alive in own_servers(state).items():
            if not alive:
                self._restart(name, partial(revive_servers, self._home))
        for part in state.parts:
            if not is_alive(part.process):
                self._restart(part.name, partial(start_part, self._home, part))

    def _restart(self, name: str, start: Callable[[], object]) -> None:
        backoff = self._backoffs.setdefault(name, Backoff(delay=FIRST_DELAY / 2))
        if not backoff.is_due(time.monotonic()):
            return
        try:
            start()
        except (CommandError, OSError) as error:
            log.warning("start failed", part=name, error=str(error))
        else:
            log.warning("started again", part=name)
        backoff.restarted(time.monotonic())


if __name__ == "__main__":
    configure_logs()
    Supervisor(Path(sys.argv[1])).run()
