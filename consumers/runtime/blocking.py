"""Detect handlers that block the event loop, log where, and fail the attempt that did.

A handler that blocks for longer than PostgreSQL's idle timeout loses its batch's transaction. The attempt is
remembered, so that it is failed without being run when the batch is processed again; the others of the batch go on.
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
"""Seconds without a turn of the event loop after which the blocking function is logged."""
_BEAT: Final = 0.5
_REMEMBERED: Final = 1000

Run = tuple[UUID, str, bool, int]
"""One local run: saga, step, whether it is the compensation, attempt."""


class Mark(NamedTuple):
    """A point in time to measure blocking from: seconds seen by the watching thread, and processor seconds."""

    seen: float
    worked: float


class LoopWatch:
    """Measures how long the event loop is blocked, and by which runs. `watching` starts the thread that logs where."""

    def __init__(self, group: str = "") -> None:
        self._group = group
        self._seen = 0.0
        self._place = ""
        self._blamed: OrderedDict[Run, str] = OrderedDict()
        self._apart: OrderedDict[Run, None] = OrderedDict()

    def mark(self) -> Mark:
        """Return the current mark; to be called on the loop's thread."""
        return Mark(self._seen, time.thread_time())

    def held(self, since: Mark) -> float:
        """Return the seconds for which the loop has been blocked since a mark.

        Only time seen by the watching thread, or processor time, counts: a stopped process has not blocked its loop.
        """
        return max(self._seen - since.seen, time.thread_time() - since.worked)

    def explain(self, since: Mark) -> str:
        """Return the reason for failing a run that blocked the loop."""
        place = f", at {self._place}" if self._place else ""
        return f"it held up the event loop for {self.held(since):.1f} s{place}; await, or run what blocks in a thread"

    def blame(self, runs: list[Run], since: Mark) -> None:
        """Remember the run that lost the transaction; if there were several, that each is to be run alone."""
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
        """Return why this attempt is failed without being run, or None."""
        return self._blamed.get(run)

    def apart(self, runs: Iterable[Run]) -> bool:
        """Return whether any of these runs has lost a batch's transaction, so that each is to be run alone."""
        if not self._apart and not self._blamed:
            return False
        return any(run in self._apart or run in self._blamed for run in runs)

    @contextmanager
    def watching(self) -> Generator[None]:
        """Log what blocks the running loop, from a thread beside it."""
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
            # Counted in beats: a stopped process makes none.
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
