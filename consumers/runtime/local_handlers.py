"""Run local handlers in the batch's transaction: each in a savepoint, or all of a step in one.

A handler that blocks the event loop for longer than PostgreSQL's idle timeout loses its batch's transaction.
`LoopWatch` logs where it blocks and remembers the attempt, so that it is failed without being run when the batch is
processed again; the others of the batch go on.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import asyncpg
import structlog
from pydantic import ValidationError

from tradesaga.consumers.context import StepContext, Work
from tradesaga.consumers.participant import Binding, CompensationImpossibleError
from tradesaga.consumers.runtime.event_factory import (
    Answered,
    Deferred,
    Failed,
    Outcome,
    Trigger,
    WrongAnswerError,
    check_fit,
    check_size,
    write_answer,
)
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.infra.clock import elapsed
from tradesaga.infra.outbox.processor import InDoubtError
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.registry.app_modules import is_users
from tradesaga.infra.telemetry import metrics
from tradesaga.schemas.envelope import ContextTooLargeError
from tradesaga.schemas.invalid import first_invalid
from tradesaga.schemas.messages.message import Event, NotFiniteError

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
        self._suspects: OrderedDict[Run, None] = OrderedDict()

    def mark(self) -> Mark:
        """Return the current mark; to be called on the loop's thread."""
        return Mark(self._seen, time.thread_time())

    def blocked_for(self, since: Mark) -> float:
        """Return the seconds for which the loop has been blocked since a mark.

        Only time seen by the watching thread, or processor time, counts: a stopped process has not blocked its loop.
        """
        return max(self._seen - since.seen, time.thread_time() - since.worked)

    def explain(self, since: Mark) -> str:
        """Return the reason for failing a run that blocked the loop."""
        place = f", at {self._place}" if self._place else ""
        seconds = self.blocked_for(since)
        return f"it held up the event loop for {seconds:.1f} s{place}; await, or run what blocks in a thread"

    def blame(self, runs: list[Run], since: Mark) -> None:
        """Remember the run that lost the transaction; if there were several, that each is to be run alone."""
        if self.blocked_for(since) < LONG:
            return
        for run in runs:
            if len(runs) == 1:
                self._blamed[run] = self.explain(since)
            else:
                self._suspects[run] = None
        for known in (self._blamed, self._suspects):
            while len(known) > _REMEMBERED:
                known.popitem(last=False)

    def failure_of(self, run: Run) -> str | None:
        """Return why this attempt is failed without being run, or None."""
        return self._blamed.get(run)

    def is_suspect(self, runs: Iterable[Run]) -> bool:
        """Return whether any of these runs has lost a batch's transaction, so that each is to be run alone."""
        if not self._suspects and not self._blamed:
            return False
        return any(run in self._suspects or run in self._blamed for run in runs)

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
            held, logged = 0.0, False
            # Counted in beats: a stopped process makes none.
            while not turned.wait(_BEAT) and not stopping.is_set():
                held += _BEAT
                self._seen += _BEAT
                if held >= LONG and not logged:
                    logged = True
                    self._log(loop, thread, held)
            self._place = self._place if logged else ""

    def _log(self, loop: asyncio.AbstractEventLoop, thread: int, held: float) -> None:
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


T = TypeVar("T")

LIMIT: Final = 6.0
"""Upper limit, in seconds, of a local handler's timeout: PostgreSQL ends a session that idles for eight."""

BUDGET: Final = 8.0
"""Seconds that the local handlers of one batch may take together once one of them has run out of time."""

_ROLLS_BACK_ALL = (
    asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError,
)  # fmt: skip
"""Errors that end the whole transaction, or come from the server itself (out of resources): the worker handles them."""


@dataclass(slots=True)
class Item:
    """One due run of a local handler: forward, or `back` for the compensation."""

    binding: Binding
    row: Row
    trigger: Trigger
    lane: int
    ctx: StepContext
    back: bool = False

    @property
    def run(self) -> Run:
        """Return the run's identity, which is the same when its batch is processed again."""
        return self.row.saga_id, self.row.step, self.back, self.ctx.attempt


@dataclass(slots=True)
class Budget:
    """Time limit of a batch's handlers, so that handlers that hang do not keep the transaction open."""

    ends: float = field(default_factory=lambda: elapsed() + BUDGET)
    hung: bool = False

    @property
    def spent(self) -> bool:
        """Return whether the remaining handlers are deferred to another batch."""
        return self.hung and elapsed() > self.ends


class _HeldUpError(Exception):
    """A handler exceeded its timeout while blocking the event loop, so that the loop could not cancel it."""


async def run_local(
    binding: Binding, items: Sequence[Item], sql: Connection, budget: Budget, watch: LoopWatch
) -> list[Outcome]:
    """Run the handler of one step, in one direction, for all items; returns their outcomes in the same order."""
    back = items[0].back
    batch = binding.compensate_batch if back else binding.handle_batch
    single = binding.compensate if back else binding.handle
    limit = min(binding.step.timeout.total_seconds(), LIMIT)
    if batch is not None:
        if not watch.is_suspect(item.run for item in items):
            with _watched(watch, items):
                outcomes = await _run_together(binding, batch, items, sql, _Limit(limit, watch))
            if outcomes is not None:
                return outcomes
        single = _one_of(batch, sql)
    if single is None:
        raise RuntimeError(f"step {binding.step.name!r} has no local handler; Participant.check was not called")
    outcomes = list[Outcome]()
    for item in items:
        if (why := watch.failure_of(item.run)) is not None:
            outcomes.append(Failed(why))
            continue
        with _watched(watch, [item]):
            held = _Limit(limit, watch)
            outcome: Outcome = Deferred() if budget.spent else await _run_alone(binding, single, item, sql, held)
        budget.hung = budget.hung or (isinstance(outcome, Failed) and outcome.hung)
        outcomes.append(outcome)
    return outcomes


async def _run_together(
    binding: Binding,
    batch: Callable[..., Awaitable[Sequence[Any]]],
    items: Sequence[Item],
    sql: Connection,
    limit: "_Limit",
) -> list[Outcome] | None:
    """Run all items in one savepoint; returns None if that fails and each is to be run alone."""

    async def run() -> list[Outcome]:
        answers = await batch([Work(item.trigger.event, item.ctx) for item in items], sql)
        limit.check()
        return [_answer(binding, item, event) for item, event in zip(items, answers, strict=True)]

    outcomes = await _in_savepoint(run, sql, limit)
    if isinstance(outcomes, list):
        return outcomes
    if isinstance(outcomes, Exception) and len(items) > 1:
        structlog.get_logger("handler").info("batch taken apart", works=len(items), why=repr(outcomes))
    return None


async def _run_alone(
    binding: Binding, handler: Callable[..., Awaitable[Any]], item: Item, sql: Connection, limit: "_Limit"
) -> Outcome:
    async def run() -> Outcome:
        answer = await handler(item.trigger.event, item.ctx)
        limit.check()
        return _answer(binding, item, answer)

    outcome = await _in_savepoint(run, sql, limit)
    return _failed(item, outcome, limit.seconds) if isinstance(outcome, BaseException) else outcome


async def _in_savepoint(
    run: Callable[[], Awaitable[T]], sql: Connection, limit: "_Limit"
) -> T | Exception | asyncio.CancelledError:
    """Run handlers in a savepoint; returns the exception that rolled it back, unless it ends the whole batch."""
    try:
        # The timeout covers the handler alone: if it struck while the savepoint is released, the effect would stay and
        # the attempt would count as failed.
        async with sql.transaction(), asyncio.timeout(limit.seconds):
            return await run()
    except _ROLLS_BACK_ALL:
        raise
    except asyncio.CancelledError as error:
        if being_cancelled():
            raise
        return error
    except Exception as error:
        if sql.is_closed():
            raise InDoubtError("the connection was lost under a handler") from error
        return error


@dataclass(frozen=True, slots=True)
class _Limit:
    """Timeout of one run; unlike the loop's timer, it also catches a handler that never awaits."""

    seconds: float
    watch: LoopWatch
    begun: Mark = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "begun", self.watch.mark())

    def check(self) -> None:
        """Raise `_HeldUpError` if the loop has been blocked for longer than the limit."""
        if self.watch.blocked_for(self.begun) > self.seconds:
            raise _HeldUpError(self.watch.explain(self.begun))


@contextmanager
def _watched(watch: LoopWatch, items: Sequence[Item]) -> Generator[None]:
    """Record which runs blocked the loop, if the whole transaction is lost."""
    begun = watch.mark()
    try:
        yield
    except BaseException:
        watch.blame([item.run for item in items], begun)
        raise


def _failed(item: Item, error: BaseException, limit: float) -> Failed:
    """Return the failure that a handler's exception means: final if every further attempt would fail too."""
    match error:
        case asyncio.CancelledError():
            return Failed("the handler was cancelled from inside")
        case TimeoutError():
            return Failed(f"no answer within {limit:g} s", hung=True)
        case ValidationError():
            return Failed(f"{error.title} is not valid: {first_invalid(error).reason}", final=True)
        case ContextTooLargeError() | CompensationImpossibleError():
            return Failed(str(error), final=True)
        case _HeldUpError():
            return Failed(str(error), hung=True)
        case WrongAnswerError() | NotFiniteError():
            item.ctx.log.error("wrong answer", why=str(error))
            return Failed(str(error))
        case _:
            item.ctx.log.warning("attempt failed", exc_info=error)
            return Failed(f"{type(error).__name__}: {error}")


def being_cancelled() -> bool:
    """Return whether this task is being cancelled; a handler may also raise `CancelledError` by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _one_of(batch: Callable[..., Awaitable[Sequence[Any]]], sql: Connection) -> Callable[..., Awaitable[Any]]:
    async def one(event: Any, ctx: StepContext) -> Any:
        answers = list(await batch([Work(event, ctx)], sql))
        if len(answers) != 1:
            raise WrongAnswerError(f"the batch handler returned {len(answers)} answers for one work")
        return answers[0]

    return one


def _answer(binding: Binding, item: Item, event: Event) -> Answered:
    value = write_answer(binding.step, event, back=item.back)
    if item.back:
        check_size(event, value)
    else:
        check_fit(item.trigger.envelope.context, event, value)
    return Answered(event, value)
