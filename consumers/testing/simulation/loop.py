# pyright: reportIncompatibleMethodOverride=false
"""A deterministic asyncio event loop: virtual time jumps to the next timer, and a seed decides which process runs.

Callbacks of one simulated process run in the order in which they were scheduled, as asyncio promises; the order between
processes is drawn. A stopped process loses nothing but time: its callbacks wait in its queue.
"""

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from functools import partial
from random import Random
from typing import Any, Final, TypeVar

T = TypeVar("T")
BURST: Final = 6
"""Maximum number of callbacks of one process before another process may run."""
_PATIENCE: Final = 20
"""Number of times that a task may swallow its cancellation."""


class ProcessGoneError(BaseException):
    """The process is dead, and none of its actions has an effect any more. Product code never catches this."""


class StuckError(Exception):
    """The simulated processes run forever without virtual time advancing."""


class Process:
    """One simulated process: a queue of callbacks, possibly stopped or dead."""

    __slots__ = ("clock_offset", "dead", "frozen", "listed", "name", "queue")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: deque[Handle] = deque()
        self.frozen = False
        self.dead = False
        self.clock_offset = 0.0
        self.listed = False

    def check(self) -> None:
        """Raise `ProcessGoneError` if the process is dead."""
        if self.dead:
            raise ProcessGoneError

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function as this process."""
        context = copy_context()
        context.run(_PROCESS.set, self)
        return context.run(function, *arguments)


_PROCESS: ContextVar[Process] = ContextVar("process")


def current() -> Process:
    """Return the running process."""
    return _PROCESS.get()


class Handle:
    """A scheduled callback."""

    __slots__ = ("arguments", "callback", "context", "gone", "process")

    def __init__(self, callback: Callable[..., Any], arguments: tuple[Any, ...], context: Context) -> None:
        self.callback = callback
        self.arguments = arguments
        self.context = context
        self.process = context[_PROCESS]
        self.gone = False

    def cancel(self) -> None:
        """Cancel the callback."""
        self.gone = True

    def cancelled(self) -> bool:
        """Return whether the callback is cancelled."""
        return self.gone


class SimLoop(asyncio.AbstractEventLoop):
    """Runs simulated processes. `steps` counts callbacks; `errors` holds uncaught exceptions."""

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
        """Return the virtual seconds since the start."""
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
        """Record an uncaught exception."""
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
        """Make a task of the calling process."""
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, name=name, context=context)  # pyright: ignore[reportArgumentType]
        self._tasks.append(task)
        return task

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Any:
        """Append a callback to the queue of its process."""
        handle = Handle(callback, args, copy_context() if context is None else context)
        self._queue(handle)
        return handle

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Any:
        """Schedule a callback for a virtual time."""
        handle = Handle(callback, args, copy_context() if context is None else context)
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, handle))
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Any:
        """Schedule a callback after a delay in virtual seconds."""
        return self.call_at(self._now + max(0.0, delay), callback, *args, context=context)

    def after(self, delay: float, callback: Callable[..., Any], *args: Any) -> Any:
        """Schedule a callback of the world outside the simulated processes, which no fault stops."""
        return self.outside.run(self.call_later, delay, callback, *args)

    def _queue(self, handle: Handle) -> None:
        handle.process.queue.append(handle)
        self._list(handle.process)

    def _list(self, process: Process) -> None:
        """Make a process runnable if it has callbacks and is not stopped."""
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
        """Run until `main` has ended, end everything else, and return the result of `main`."""
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
        """Cancel every task, also those of dead processes, so that the garbage collector finds none pending."""
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
            self._run_until(partial(_have_ended, left))
        self._tasks.clear()


def _have_ended(tasks: list["asyncio.Task[Any]"]) -> bool:
    """Return whether all tasks have ended. Ended tasks are removed from the list, so that each is checked once."""
    while tasks and tasks[-1].done():
        tasks.pop()
    return not tasks
