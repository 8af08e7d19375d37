"""Functions that share one transaction; a function that fails does not affect the others."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import asyncpg

from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.outbox_rows import OutboxRow
from tradesaga.infra.outbox.processor import ConflictError, Transaction
from tradesaga.infra.postgres.database import Connection

REDO = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError, ConflictError)
"""Errors after which the same batch may be retried."""
_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

T = TypeVar("T")


class OutboxTransaction(Transaction):
    """The transaction that a function is given: it runs SQL through `sql` and publishes through `publish`."""

    def publish(self, record: Outgoing) -> None:
        """Add a record to the outbox of the writer's lane."""
        self.emit(next(iter(self.lanes)), record)


@dataclass(slots=True, eq=False)
class Request(Generic[T]):
    """A function that waits for a transaction, with the future of its result."""

    run: Callable[[OutboxTransaction], Awaitable[T]]
    future: "asyncio.Future[T]"
    taken: bool = False
    result: T | None = None
    error: Exception | None = None


class FunctionFailedError(Exception):
    """A function of the batch raised an error: the transaction is to be repeated with savepoints."""


async def run_functions(sql: Connection, lane: Lane, batch: Sequence[Request[Any]]) -> list[OutboxRow]:
    """Run the functions one after another. Raises `FunctionFailedError` if one of them raises."""
    transaction = OutboxTransaction(sql, {lane.id: lane})
    for request in batch:
        request.error = None
        try:
            request.result = await request.run(transaction)
        except (*REDO, *_LOST):
            raise
        except Exception as error:
            raise FunctionFailedError from error
    return transaction.rows


async def run_with_savepoints(sql: Connection, lane: Lane, batch: Sequence[Request[Any]]) -> list[OutboxRow]:
    """Run each function in a savepoint and with row numbers of its own, so that a failing one leaves no trace."""
    rows: list[OutboxRow] = []
    for request in batch:
        tail = rows[-1].seq if rows else lane.last_seq
        own = OutboxTransaction(sql, {lane.id: replace(lane, last_seq=tail)})
        request.error = None
        try:
            async with sql.transaction():
                request.result = await request.run(own)
        except (*REDO, *_LOST):
            raise
        except Exception as error:  # noqa: BLE001 - raised to the function's caller
            request.error = error
            continue
        rows += own.rows
    return rows


def resolve(request: Request[Any]) -> None:
    """Pass a committed function's result, or its error, to the caller."""
    if request.error is not None:
        reject(request, request.error)
    elif not request.future.done():
        request.future.set_result(request.result)


def reject(request: Request[Any], error: Exception) -> None:
    """Pass an error to the caller, unless the caller no longer waits."""
    if not request.future.done():
        request.future.set_exception(error)
