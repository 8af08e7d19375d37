"""Run local handlers in the batch's transaction: each in a savepoint, or all of a step in one."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import structlog
from pydantic import ValidationError

from tradesaga.consumers.context import StepContext, Work
from tradesaga.consumers.participant import Binding, CompensationImpossibleError
from tradesaga.consumers.runtime.blocking import LoopWatch, Mark, Run
from tradesaga.consumers.runtime.event_factory import Trigger, WrongAnswerError, check_fit, check_size, write_answer
from tradesaga.consumers.runtime.outcome import Answered, Deferred, Failed, Outcome
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.infra.clock import elapsed
from tradesaga.infra.outbox.processor import InDoubtError
from tradesaga.infra.postgres.database import Connection
from tradesaga.schemas.envelope import ContextTooLargeError
from tradesaga.schemas.invalid import first_invalid
from tradesaga.schemas.messages.message import Event, NotFiniteError

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
        if not watch.apart(item.run for item in items):
            with _watched(watch, items):
                outcomes = await _run_together(binding, batch, items, sql, _Limit(limit, watch))
            if outcomes is not None:
                return outcomes
        single = _one_of(batch, sql)
    if single is None:
        raise RuntimeError(f"step {binding.step.name!r} has no local handler; Participant.check was not called")
    outcomes = list[Outcome]()
    for item in items:
        if (why := watch.verdict(item.run)) is not None:
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
    try:
        works = [Work(item.trigger.event, item.ctx) for item in items]
        # The timeout covers the handler alone: if it struck while the savepoint is released, the effect would stay and
        # the attempt would count as failed.
        async with sql.transaction(), asyncio.timeout(limit.seconds):
            answers = await batch(works, sql)
            limit.check()
            return [_answer(binding, item, event) for item, event in zip(items, answers, strict=True)]
    except _ROLLS_BACK_ALL:
        raise
    except asyncio.CancelledError:
        if being_cancelled():
            raise
        return None
    except Exception as error:
        if sql.is_closed():
            raise InDoubtError("the connection was lost under a handler") from error
        if len(items) > 1:
            structlog.get_logger("handler").info("batch taken apart", works=len(items), why=repr(error))
        return None


async def _run_alone(
    binding: Binding, handler: Callable[..., Awaitable[Any]], item: Item, sql: Connection, limit: "_Limit"
) -> Outcome:
    try:
        async with sql.transaction(), asyncio.timeout(limit.seconds):
            answer = await handler(item.trigger.event, item.ctx)
            limit.check()
            return _answer(binding, item, answer)
    except _ROLLS_BACK_ALL:
        raise
    except asyncio.CancelledError:
        if being_cancelled():
            raise
        return Failed("the handler was cancelled from inside")
    except Exception as error:
        if sql.is_closed():
            raise InDoubtError("the connection was lost under a handler") from error
        return _failed(item, error, limit.seconds)


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
        if self.watch.held(self.begun) > self.seconds:
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


def _failed(item: Item, error: Exception, limit: float) -> Failed:
    """Return the failure that a handler's exception means: final if every further attempt would fail too."""
    match error:
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
