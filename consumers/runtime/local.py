"""Local handlers: inside the batch's transaction, each in a savepoint, or all of a step at once."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import structlog
from pydantic import ValidationError

from consumers.context import StepContext, Work
from consumers.participant import Binding, CompensationImpossibleError
from consumers.runtime.cause import Cause
from consumers.runtime.outcome import Answered, Failed, Outcome, Postponed
from consumers.runtime.row import Row
from consumers.runtime.speaker import check_fit, check_size
from infra.clock import elapsed
from infra.database import Connection
from infra.lanes.processor import InDoubtError
from schemas.envelope import ContextTooLargeError
from schemas.message import Event

LIMIT: Final = 6.0
"""Seconds a local handler has at most, whatever its step allows: PostgreSQL ends a session that idles for eight."""
BUDGET: Final = 8.0
"""Seconds that the local handlers of one batch may take together once one of them has run out of time."""

_ROLLS_BACK_ALL = (
    asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError,
)  # fmt: skip
"""Errors after which only the worker can go on: they void the whole transaction, or are the server's own (no room)."""


@dataclass(slots=True)
class Item:
    """One local run that is due: forward, or `back`."""

    row: Row
    cause: Cause
    lane: int
    ctx: StepContext
    back: bool = False


@dataclass(slots=True)
class Budget:
    """The time of one batch: handlers that hang must not hold the others' transaction for as long as they like."""

    ends: float = field(default_factory=lambda: elapsed() + BUDGET)
    hung: bool = False

    @property
    def spent(self) -> bool:
        """Say whether what has not run yet is to wait for another batch."""
        return self.hung and elapsed() > self.ends


async def run_local(binding: Binding, items: Sequence[Item], sql: Connection, budget: Budget) -> list[Outcome]:
    """Run the handler of one step, in one direction, for all items; give an outcome for each, in their order."""
    back = items[0].back
    batch = binding.compensate_batch if back else binding.handle_batch
    single = binding.compensate if back else binding.handle
    limit = min(binding.step.timeout.total_seconds(), LIMIT)
    if batch is not None:
        if (outcomes := await _run_together(batch, items, sql, limit)) is not None:
            return outcomes
        single = _one_of(batch, sql)
    if single is None:
        raise RuntimeError(f"step {binding.step.name!r} has no local handler; Participant.check was not called")
    outcomes = list[Outcome]()
    for item in items:
        outcome: Outcome = Postponed() if budget.spent else await _run_alone(single, item, sql, limit)
        budget.hung = budget.hung or (isinstance(outcome, Failed) and outcome.hung)
        outcomes.append(outcome)
    return outcomes


async def _run_together(
    batch: Callable[..., Awaitable[Sequence[Any]]], items: Sequence[Item], sql: Connection, limit: float
) -> list[Outcome] | None:
    """Run all in one savepoint; None if any of them stands in the way, and each is to be run alone."""
    try:
        works = [Work(item.cause.event, item.ctx) for item in items]
        # The time limit is the handler's alone: one that struck while the savepoint is released would leave the effect
        # in place and call it failed.
        async with sql.transaction(), asyncio.timeout(limit):
            answers = await batch(works, sql)
            return [_answer(item, event) for item, event in zip(items, answers, strict=True)]
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


async def _run_alone(handler: Callable[..., Awaitable[Any]], item: Item, sql: Connection, limit: float) -> Outcome:
    try:
        async with sql.transaction(), asyncio.timeout(limit):
            return _answer(item, await handler(item.cause.event, item.ctx))
    except _ROLLS_BACK_ALL:
        raise
    except asyncio.CancelledError:
        if being_cancelled():
            raise
        return Failed("the handler was cancelled from inside")
    except Exception as error:
        if sql.is_closed():
            raise InDoubtError("the connection was lost under a handler") from error
        return _failed(item, error, limit)


def _failed(item: Item, error: Exception, limit: float) -> Failed:
    """Say what an exception of a handler means: another attempt, or none that would end otherwise."""
    match error:
        case TimeoutError():
            return Failed(f"no answer within {limit:g} s", hung=True)
        case ValidationError():
            what = error.errors(include_url=False)[0]["msg"]
            return Failed(f"{error.title} is not valid: {what}", final=True)
        case ContextTooLargeError() | CompensationImpossibleError():
            return Failed(str(error), final=True)
        case _:
            item.ctx.log.warning("attempt failed", exc_info=error)
            return Failed(f"{type(error).__name__}: {error}")


def being_cancelled() -> bool:
    """Say whether somebody wants this task to end; a handler may also raise `CancelledError` for reasons of its own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _one_of(batch: Callable[..., Awaitable[Sequence[Any]]], sql: Connection) -> Callable[..., Awaitable[Any]]:
    async def one(event: Any, ctx: StepContext) -> Any:
        return (await batch([Work(event, ctx)], sql))[0]

    return one


def _answer(item: Item, event: Event) -> Answered:
    value = event.to_wire()
    if item.back:
        check_size(event, value)
    else:
        check_fit(item.cause.envelope.context, event, value)
    return Answered(event, value)
