"""Local handlers: inside the batch's transaction, each in a savepoint, or all of a step at once."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog
from pydantic import ValidationError

from consumers.context import StepContext, Work
from consumers.participant import Binding, CompensationImpossibleError
from consumers.runtime.cause import Cause
from consumers.runtime.outcome import Answered, Failed, Outcome
from consumers.runtime.row import Row
from consumers.runtime.speaker import check_size
from infra.database import Connection
from schemas.envelope import ContextTooLargeError
from schemas.message import Event

_ROLLS_BACK_ALL = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.PostgresConnectionError)
"""Errors after which the whole transaction is void, so that only the worker can go on."""


@dataclass(slots=True)
class Item:
    """One local run that is due: forward, or `back`."""

    row: Row
    cause: Cause
    lane: int
    ctx: StepContext
    back: bool = False


async def run_local(binding: Binding, items: Sequence[Item], sql: Connection) -> list[Outcome]:
    """Run the handler of one step, in one direction, for all items; give an outcome for each, in their order."""
    back = items[0].back
    batch = binding.compensate_batch if back else binding.handle_batch
    single = binding.compensate if back else binding.handle
    limit = binding.step.timeout.total_seconds()
    if batch is not None:
        if (outcomes := await _run_together(batch, items, sql, limit)) is not None:
            return outcomes
        return [await _run_alone(_one_of(batch, sql), item, sql, limit) for item in items]
    if single is None:
        raise RuntimeError(f"step {binding.step.name!r} has no local handler; Participant.check was not called")
    return [await _run_alone(single, item, sql, limit) for item in items]


async def _run_together(
    batch: Callable[..., Awaitable[Sequence[Any]]], items: Sequence[Item], sql: Connection, limit: float
) -> list[Outcome] | None:
    """Run all in one savepoint; None if any of them stands in the way, and each is to be run alone."""
    try:
        works = [Work(item.cause.event, item.ctx) for item in items]
        async with asyncio.timeout(limit), sql.transaction():
            answers = await batch(works, sql)
            return [_answer(item, event) for item, event in zip(items, answers, strict=True)]
    except _ROLLS_BACK_ALL:
        raise
    except Exception as error:  # noqa: BLE001 - each item shows it again alone, where it is judged
        if len(items) > 1:
            structlog.get_logger("handler").info("batch taken apart", works=len(items), why=repr(error))
        return None


async def _run_alone(handler: Callable[..., Awaitable[Any]], item: Item, sql: Connection, limit: float) -> Outcome:
    try:
        async with asyncio.timeout(limit), sql.transaction():
            return _answer(item, await handler(item.cause.event, item.ctx))
    except _ROLLS_BACK_ALL:
        raise
    except TimeoutError:
        return Failed(f"no answer within {limit:g} s")
    except ValidationError as error:
        return Failed(f"unreadable {item.cause.payload.NAME}: {error.errors(include_url=False)[0]['msg']}", final=True)
    except (ContextTooLargeError, CompensationImpossibleError) as error:
        return Failed(str(error), final=True)
    except Exception as error:
        item.ctx.log.warning("attempt failed", exc_info=error)
        return Failed(f"{type(error).__name__}: {error}")


def _one_of(batch: Callable[..., Awaitable[Sequence[Any]]], sql: Connection) -> Callable[..., Awaitable[Any]]:
    async def one(event: Any, ctx: StepContext) -> Any:
        return (await batch([Work(event, ctx)], sql))[0]

    return one


def _answer(item: Item, event: Event) -> Answered:
    value = event.to_wire()
    if not item.back:
        check_size(item.cause.envelope.context, event, value)
    return Answered(event, value)
