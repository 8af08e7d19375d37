# pyright: reportIncompatibleMethodOverride=false
"""An event loop without a machine under it: time jumps to the next timer, and a seed says whose turn it is.

Callbacks of one simulated process keep the order in which they were asked for, as asyncio promises; whose of several
processes come first is drawn. A stopped process misses nothing but time: what it was told waits in its queue.
"""

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, Final, TypeVar

T = TypeVar("T")
BURST: Final = 6
"""Callbacks of one process that run at most before another may have its turn."""
_PATIENCE: Final = 20
"""Cancellations that a task may swallow."""


class ProcessGoneError(BaseException):
    """The process is dead: nothing that it does has an effect any more, and nothing of ours catches this."""


class StuckError(Exception):
    """The simulated processes keep each other busy without time going by."""


class Process:
    """One simulated process: a queue of callbacks, which may be stopped, or dead."""

    __slots__ = ("clock_offset", "dead", "frozen", "listed", "name", "queue")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: deque[Handle] = deque()
        self.frozen = False
        self.dead = False
        self.clock_offset = 0.0
        self.listed = False

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function as this process."""
        context = copy_context()
        context.run(_PROCESS.set, self)
        return context.run(function, *arguments)


_PROCESS: ContextVar[Process] = ContextVar("process")


def current() -> Process:
    """Return the process that runs now."""
    return _PROCESS.get()


class Handle:
    """A callback that waits for its turn."""

    __slots__ = ("arguments", "callback", "context", "gone", "process")

    def __init__(self, callback: Callable[..., Any], arguments: tuple[Any, ...], context: Context) -> None:
        self.callback = callback
        self.arguments = arguments
        self.context = context
        self.process = context[_PROCESS]
        self.gone = False

    def cancel(self) -> None:
        """Forget it."""
        self.gone = True

    def cancelled(self) -> bool:
        """Return whether it is forgotten."""
        return self.gone


class SimLoop(asyncio.AbstractEventLoop):
    """Runs simulated processes; `steps` counts callbacks, `errors` what nobody caught."""

    def __init__(self, seed: int, limit: int = 400_000) -> None:
        self.chance = Random(seed)  # noqa: S311 - draws schedules, guards nothing
        self.outside = Process("outside")
        self.steps = 0
        self.errors: list[dict[str, Any]] = []
        self._limit = limit
        self._now = 0.0
        self._timers: list[tuple[float, int, Handle]] = []
        self._order = 0
        self._runnable: list[Process] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._processes = [self.outside]
        self._unwinding = False

    def spawn(self, name: str) -> Process:
        """Make a process."""
        process = Process(name)
        self._processes.append(process)
        return process

    def time(self) -> float:
        """Return the virtual seconds since the beginning."""
        return self._now

    def get_debug(self) -> bool:
        """Return False: asyncio's own checks are for real loops."""
        return False

    def is_running(self) -> bool:
        """Return True: the loop is only asked while it runs."""
        return True

    def is_closed(self) -> bool:
        """Return False."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody caught."""
        if not isinstance(context.get("exception"), ProcessGoneError):
            self.errors.append(context)

    def create_future(self) -> "asyncio.Future[Any]":
        """Make a future."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> "asyncio.Task[T]":
        """Make a task of the process that asks."""
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, name=name, context=context)  # pyright: ignore[reportArgumentType]
        self._tasks.append(task)
        return task

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Any:
        """Queue a callback behind the others of its process."""
        handle = Handle(callback, args, copy_context() if context is None else context)
        process = handle.process
        process.queue.append(handle)
        if not process.listed and (self._unwinding or not process.frozen):
            process.listed = True
            self._runnable.append(process)
        return handle

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Any:
        """Queue a callback for a time."""
        handle = Handle(callback, args, copy_context() if context is None else context)
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, handle))
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Any:
        """Queue a callback for later."""
        return self.call_at(self._now + max(0.0, delay), callback, *args, context=context)

    def _queue(self, handle: Handle) -> None:
        handle.process.queue.append(handle)
        self._list(handle.process)

    def _list(self, process: Process) -> None:
        """Schedule a process if it is runnable."""
        if process.queue and not process.listed and (self._unwinding or not process.frozen):
            process.listed = True
            self._runnable.append(process)

    def _unlist(self, process: Process) -> None:
        if process.listed:
            process.listed = False
            self._runnable.remove(process)

    def stop_process(self, process: Process, *, dead: bool = False) -> None:
        """Stop a process, as SIGSTOP would, or for good."""
        process.frozen, process.dead = True, process.dead or dead
        self._unlist(process)

    def thaw(self, process: Process) -> None:
        """Resume a stopped process."""
        if process.frozen and not process.dead:
            process.frozen = False
            self._list(process)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run until `main` has ended, then end everything else, and give what it gave."""
        former = events._get_running_loop()  # noqa: SLF001 - meant for those who write event loops
        events._set_running_loop(self)  # noqa: SLF001
        try:
            task = self.outside.run(self.create_task, main)
            self._run_until(task.done)
            self._unwind()
        finally:
            events._set_running_loop(former)  # noqa: SLF001
            self._timers.clear()
        return task.result()

    def _run_until(self, done: Callable[[], bool]) -> None:
        runnable, draw = self._runnable, self.chance.random
        idle = self.steps
        while not done():
            if not runnable:
                if not self._timers:
                    return
                self._advance()
                idle = self.steps
                continue
            if self.steps - idle > self._limit:
                raise StuckError(f"{self.steps - idle} callbacks ran at virtual second {self._now:.3f}")
            process = runnable[int(draw() * len(runnable))] if len(runnable) > 1 else runnable[0]
            self._burst(process, 1 + int(draw() * BURST))

    def _burst(self, process: Process, length: int) -> None:
        queue = process.queue
        while length and queue:
            handle = queue.popleft()
            if handle.gone:
                continue
            length -= 1
            self.steps += 1
            handle.context.run(handle.callback, *handle.arguments)
            if process.frozen and not self._unwinding:
                return
        if not queue:
            self._unlist(process)

    def _advance(self) -> None:
        """Jump to the next timer."""
        timers = self._timers
        while timers:
            when, _, handle = timers[0]
            if handle.gone:
                heapq.heappop(timers)
                continue
            if when > self._now and self._runnable:
                return
            heapq.heappop(timers)
            self._now = max(self._now, when)
            self._queue(handle)

    def _unwind(self) -> None:
        """End every task, those of dead processes too, so that nothing is left to the garbage collector."""
        self._unwinding = True
        for process in self._processes:
            process.dead = True
        for process in self._processes:
            self._list(process)
        for _ in range(_PATIENCE):
            left = [task for task in self._tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            self._run_until(_Ended(left))
        self._tasks.clear()


class _Ended:
    """Says whether all tasks have ended, without looking at those twice that have."""

    def __init__(self, tasks: list["asyncio.Task[Any]"]) -> None:
        self._tasks = tasks

    def __call__(self) -> bool:
        while self._tasks and self._tasks[-1].done():
            self._tasks.pop()
        return not self._tasks
