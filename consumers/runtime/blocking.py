"""Functions of a participant that hold up the event loop: named while they do, and counted against their own attempt.

A handler that blocks for longer than PostgreSQL bears takes its batch's transaction with it. It is remembered here, so
that the same attempt is failed, not run, when the batch comes again, and the others of the batch go on.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Final, NamedTuple
from uuid import UUID

import structlog

from tradesaga.infra.registry.app_modules import is_users
from tradesaga.infra.telemetry import metrics

LONG: Final = 2.0
"""Seconds without a turn of the loop after which whatever holds it up is named."""
_BEAT: Final = 0.5
_REMEMBERED: Final = 1000

Run = tuple[UUID, str, bool, int]
"""One local run: saga, step, whether it is the compensation, attempt."""


class Mark(NamedTuple):
    """How much the loop had been held up by then, in seconds: as a thread has seen it, and by processor time."""

    seen: float
    worked: float


class LoopWatch:
    """Sees how long the loop is held up, and by which runs. `watching` starts the thread that names the place."""

    def __init__(self, group: str = "") -> None:
        self._group = group
        self._seen = 0.0
        self._place = ""
        self._blamed: OrderedDict[Run, str] = OrderedDict()
        self._apart: OrderedDict[Run, None] = OrderedDict()

    def mark(self) -> Mark:
        """Note where we are; taken on the loop's thread."""
        return Mark(self._seen, time.thread_time())

    def held(self, since: Mark) -> float:
        """Return the seconds for which the loop has been held up since then.

        Only what a thread beside it saw, or what took processor time, counts: a process that was stopped did nothing.
        """
        return max(self._seen - since.seen, time.thread_time() - since.worked)

    def explain(self, since: Mark) -> str:
        """Say why a run that held up the loop has failed."""
        place = f", at {self._place}" if self._place else ""
        return f"it held up the event loop for {self.held(since):.1f} s{place}; await, or run what blocks in a thread"

    def blame(self, runs: list[Run], since: Mark) -> None:
        """Remember the run that cost the transaction; of several, that each is to be run alone."""
        if self.held(since) < LONG:
            return
        for run in runs:
            if len(runs) == 1:
                self._blamed[run] = self.explain(since)
            else:
                self._apart[run] = None
        for known in (self._blamed, self._apart):
            while len(known) > _REMEMBERED:
                known.popitem(last=False)

    def verdict(self, run: Run) -> str | None:
        """Return why this very attempt is not to be run again, or None."""
        return self._blamed.get(run)

    def apart(self, runs: Iterable[Run]) -> bool:
        """Say whether any of these has cost a batch its transaction, so that each is to be run alone."""
        if not self._apart and not self._blamed:
            return False
        return any(run in self._apart or run in self._blamed for run in runs)

    @contextmanager
    def watching(self) -> Generator[None]:
        """Name whatever holds up the running loop, from a thread beside it."""
        stopping = threading.Event()
        arguments = (asyncio.get_running_loop(), threading.get_ident(), stopping)
        thread = threading.Thread(target=self._watch, args=arguments, name="loop watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int, stopping: threading.Event) -> None:
        while not stopping.wait(_BEAT):
            turned = threading.Event()
            try:
                loop.call_soon_threadsafe(turned.set)
            except RuntimeError:  # the loop is closed
                return
            held, told = 0.0, False
            # Counted in beats: in a process that stands still, none is made.
            while not turned.wait(_BEAT) and not stopping.is_set():
                held += _BEAT
                self._seen += _BEAT
                if held >= LONG and not told:
                    told = True
                    self._tell(loop, thread, held)
            self._place = self._place if told else ""

    def _tell(self, loop: asyncio.AbstractEventLoop, thread: int, held: float) -> None:
        # The only way to see what another thread does.
        frame = sys._current_frames().get(thread)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        stack = traceback.extract_stack(frame)
        own = [each for each in stack if is_users(each.filename)] or stack
        self._place = f"{own[-1].filename}:{own[-1].lineno}" if own else ""
        task = asyncio.current_task(loop)
        metrics.LOOP_HELD_UP.labels(self._group).inc()
        structlog.get_logger("loop").error(
            "the event loop is held up: await, or run what blocks in a thread", group=self._group, seconds=held,
            at=self._place, function=own[-1].name if own else "", task=task.get_name() if task is not None else "",
        )  # fmt: skip
