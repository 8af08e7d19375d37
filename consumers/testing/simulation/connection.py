"""A simulated asyncpg: lost answers, sessions that the server ends, processes that stop in between."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from tradesaga.consumers.testing.simulation.database import SimDatabase, Transaction
from tradesaga.consumers.testing.simulation.loop import Process, ProcessGoneError

IDLE_LIMIT: Final = 8.0
"""Seconds after which the server ends a session that idles in a transaction."""


TURNS: Final = 0.4
"""The chance that others have their turn while a message is on its way; always would cost a third of all time."""


class UnknownStatementError(Exception):
    """A statement for which the simulation has no function: give it one in `SimulatedSaga.statements`."""


class SimConnection:
    """One session: the part of asyncpg's `Connection` that the step path and its handlers use."""

    def __init__(self, database: SimDatabase, process: Process) -> None:
        self.database = database
        self.process = process
        self.open: Transaction | None = None
        self.cut = ""
        """`before` or `after`: the connection breaks when the next COMMIT is sent, or is done and not answered."""
        self.conflicts = 0
        self.slow = 0.0
        self.committing = False
        self.closed = False
        self._draw = database.loop.chance.random

    def is_closed(self) -> bool:
        """Return whether the session has ended."""
        return self.closed

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> list[Any]:  # noqa: ARG002, ASYNC109 - asyncpg's signature
        """Run a statement and give its rows."""
        return await self._run(query, args)

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None) -> Any:  # noqa: ARG002, ASYNC109
        """Return the first row, or None."""
        rows = await self._run(query, args)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None) -> Any:  # noqa: ARG002, ASYNC109
        """Return the first column of the first row, or None."""
        rows = await self._run(query, args)
        return next(iter(rows[0].values())) if rows else None

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ARG002, ASYNC109
        """Run a statement and give its command tag."""
        answer = await self._run(query, args)
        return answer if isinstance(answer, str) else f"SELECT {len(answer)}"

    async def copy_records_to_table(
        self, table_name: str, *, columns: Sequence[str], records: Iterable[Sequence[Any]]
    ) -> str:
        """Write rows as COPY does; the function for it has the name `COPY table`."""
        return await self._run(f"COPY {table_name}", (columns, list(records)))

    def transaction(self) -> "SimTransaction":
        """Open a transaction, or within one a savepoint, as a context."""
        return SimTransaction(self)

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
        if transaction.failed:
            raise asyncpg.InFailedSQLTransactionError("current transaction is aborted")
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
        """Simulate a network round trip. Raises what asyncpg would if the session has ended meanwhile."""
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
        """Raise if there is no session any more."""
        if self.process.dead:
            raise ProcessGoneError
        if self.closed:
            raise asyncpg.InterfaceError("connection is closed")

    def end(self) -> None:
        """End the session, at the server's side; what was open is rolled back."""
        self.closed = True
        if self.open is not None and not self.open.over:
            self.open.end()
        self.open = None

    def lose(self) -> asyncpg.PostgresError:
        """Break the connection and give the error for it."""
        self.end()
        return asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


class SimTransaction:
    """BEGIN and COMMIT, or SAVEPOINT and its release."""

    def __init__(self, connection: SimConnection) -> None:
        self._connection = connection
        self._mark: tuple[int, int] | None = None

    async def __aenter__(self) -> None:
        connection = self._connection
        await connection.travel()
        if connection.open is None:
            connection.open = Transaction(connection.database)
        else:
            if connection.open.failed:
                raise asyncpg.InFailedSQLTransactionError("current transaction is aborted")
            self._mark = connection.open.savepoint()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        connection = self._connection
        if self._mark is not None:
            await connection.travel()
            if connection.open is not None and kind is not None:
                connection.open.roll_back_to(self._mark)
        elif kind is not None:
            await connection.travel()
            if connection.open is not None:
                connection.open.end()
                connection.open = None
        else:
            await self._commit()

    async def _commit(self) -> None:
        connection = self._connection
        connection.check()
        if connection.cut == "before":
            connection.cut = ""
            raise connection.lose()
        connection.committing = True
        try:
            await connection.travel()
        finally:
            connection.committing = False
        transaction = connection.open
        if transaction is None:
            raise asyncpg.InterfaceError("connection is closed")
        connection.open = None
        if transaction.failed:
            transaction.end()
            return
        transaction.commit()
        if connection.cut == "after":
            connection.cut = ""
            raise connection.lose()
        await connection.travel()


class SimPool:
    """The connections of one process."""

    def __init__(self, database: SimDatabase, process: Process) -> None:
        self._database = database
        self._process = process
        self.used: list[SimConnection] = []

    @asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncGenerator[SimConnection]:  # noqa: ARG002, ASYNC109 - asyncpg's signature
        """Return a session that nobody else uses."""
        connection = SimConnection(self._database, self._process)
        await connection.travel()
        self.used.append(connection)
        try:
            yield connection
        finally:
            if not connection.process.dead:
                connection.end()
            self.used.remove(connection)
