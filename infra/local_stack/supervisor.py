"""Keeps a stack running: starts its parts, and starts again whatever dies, the two servers included."""

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
class Patience:
    """How long to wait before the next start of something that keeps dying; times are monotonic seconds."""

    delay: float = FIRST_DELAY
    started: float = field(default_factory=time.monotonic)
    due: float | None = None

    def is_due(self, now: float) -> bool:
        """Return whether a start is due, putting the next one off the longer the oftener it dies."""
        if self.due is None:
            self.delay = FIRST_DELAY if now - self.started > STEADY_SECONDS else min(self.delay * 2, LONGEST_DELAY)
            self.due = now + self.delay
        return now >= self.due

    def restarted(self, now: float) -> None:
        """Note a start."""
        self.started, self.due = now, None


class Supervisor:
    """Watches one stack; what it starts outlives it, and another supervisor takes it over by the state file."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._stopping = threading.Event()
        self._patience: dict[str, Patience] = {}

    def run(self) -> None:
        """Watch until a signal asks for the end, then stop the parts; the servers are left to the caller."""
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
                self._start_again(name, partial(revive_servers, self._home))
        for part in state.parts:
            if not is_alive(part.process):
                self._start_again(part.name, partial(start_part, self._home, part))

    def _start_again(self, name: str, start: Callable[[], object]) -> None:
        patience = self._patience.setdefault(name, Patience(delay=FIRST_DELAY / 2))
        if not patience.is_due(time.monotonic()):
            return
        try:
            start()
        except (CommandError, OSError) as error:
            log.warning("start failed", part=name, error=str(error))
        else:
            log.warning("started again", part=name)
        patience.restarted(time.monotonic())


if __name__ == "__main__":
    configure_logs()
    Supervisor(Path(sys.argv[1])).run()
