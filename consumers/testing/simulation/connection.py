"""A simulated asyncpg connection: lost COMMIT answers, closed sessions, and processes that die between statements."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from tradesaga.consumers.testing.simulation.database import SimDatabase, Transaction
from tradesaga.consumers.testing.simulation.loop import Process

IDLE_LIMIT: Final = 8.0
"""Seconds after which the server ends a session that idles in a transaction."""


TURNS: Final = 0.4
"""The chance that other tasks run during a round trip. At 1.0 a simulation would take a third more time."""


class UnknownStatementError(Exception):
    """The simulation has no function for a statement: add one to `SimulatedSaga.statements`."""


class SimConnection:
    """One session: the part of asyncpg's `Connection` that the step path and its handlers use."""

    def __init__(self, database: SimDatabase, process: Process) -> None:
        self.database = database
        self.process = process
        self.open: Transaction | None = None
        self.cut = ""
        """`before` or `after`: the connection breaks before the next COMMIT, or after it and before its answer."""
        self.conflicts = 0
        self.slow = 0.0
        self.committing = False
        self.closed = False
        self._draw = database.loop.chance.random

    def is_closed(self) -> bool:
        """Return whether the session has ended."""
        return self.closed

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> list[Any]:  # noqa: ARG002, ASYNC109 - asyncpg's signature
        """Run a statement and return its rows."""
        return await self._run(query, args)

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None) -> Any:  # noqa: ARG002, ASYNC109
        """Return the first row, or None."""
        return next(iter(await self._run(query, args)), None)

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None) -> Any:  # noqa: ARG002, ASYNC109
        """Return the first column of the first row, or None."""
        row = await self.fetchrow(query, *args)
        return next(iter(row.values())) if row else None

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ARG002, ASYNC109
        """Run a statement and return its command tag."""
        answer = await self._run(query, args)
        return answer if isinstance(answer, str) else f"SELECT {len(answer)}"

    async def copy_records_to_table(
        self, table_name: str, *, columns: Sequence[str], records: Iterable[Sequence[Any]]
    ) -> str:
        """Write rows with COPY; its function has the name `COPY table`."""
        return await self._run(f"COPY {table_name}", (columns, list(records)))

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        """Open a transaction, or a savepoint within an open one, until the context ends."""
        await self.travel()
        if self.open is not None:
            async with self._savepoint(self.open):
                yield
            return
        self.open = Transaction(self.database)
        try:
            yield
        except BaseException:
            await self.travel()
            self._abort()
            raise
        await self._commit()

    @asynccontextmanager
    async def _savepoint(self, transaction: Transaction) -> AsyncGenerator[None]:
        _check_usable(transaction)
        savepoint = transaction.savepoint()
        try:
            yield
        except BaseException:
            await self.travel()
            if self.open is not None:
                self.open.roll_back_to(savepoint)
            raise
        await self.travel()

    async def _commit(self) -> None:
        self.check()
        self._break_if_cut("before")
        self.committing = True
        try:
            await self.travel()
        finally:
            self.committing = False
        transaction, self.open = self.open, None
        if transaction is None:
            raise asyncpg.InterfaceError("connection is closed")
        if transaction.failed:
            transaction.end()
            return
        transaction.commit()
        self._break_if_cut("after")
        await self.travel()

    async def _run(self, query: str, arguments: tuple[Any, ...]) -> Any:
        function = self.database.statements.get(query)
        if function is None:
            self.database.unknown.add(query.strip())
            raise UnknownStatementError(f"the simulation has no function for this statement: {query.strip()}")
        await self.travel()
        if self.open is not None:
            return await self._within(self.open, function, arguments)
        transaction = Transaction(self.database)
        try:
            answer = await function(transaction, *arguments)
        except BaseException:
            transaction.end()
            raise
        transaction.commit()
        await self.travel()
        return answer

    async def _within(self, transaction: Transaction, function: Any, arguments: tuple[Any, ...]) -> Any:
        _check_usable(transaction)
        if self.conflicts:
            self.conflicts -= 1
            transaction.failed = True
            raise asyncpg.SerializationError("could not serialize access")
        try:
            return await function(transaction, *arguments)
        except BaseException:
            transaction.failed = True
            raise

    async def travel(self) -> None:
        """Simulate a network round trip. Raises as asyncpg does if the session has ended meanwhile."""
        self.check()
        if self.slow:
            slow, self.slow = self.slow, 0.0
            await asyncio.sleep(slow)
        elif self._draw() < TURNS:
            await asyncio.sleep(0)
        else:
            return
        self.check()

    def check(self) -> None:
        """Raise an error if the process is dead or the session closed."""
        self.process.check()
        if self.closed:
            raise asyncpg.InterfaceError("connection is closed")

    def end(self) -> None:
        """End the session at the server, which rolls back its open transaction."""
        self.closed = True
        self._abort()

    def _abort(self) -> None:
        if self.open is not None and not self.open.over:
            self.open.end()
        self.open = None

    def _break_if_cut(self, when: str) -> None:
        if self.cut == when:
            self.cut = ""
            self.end()
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


def _check_usable(transaction: Transaction) -> None:
    if transaction.failed:
        raise asyncpg.InFailedSQLTransactionError("current transaction is aborted")


class SimPool:
    """The connections of one process."""

    def __init__(self, database: SimDatabase, process: Process) -> None:
        self._database = database
        self._process = process
        self.used: list[SimConnection] = []

    @asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncGenerator[SimConnection]:  # noqa: ARG002, ASYNC109 - asyncpg's signature
        """Return a session that no other task uses."""
        connection = SimConnection(self._database, self._process)
        await connection.travel()
        self.used.append(connection)
        try:
            yield connection
        finally:
            if not connection.process.dead:
                connection.end()
            self.used.remove(connection)
