"""A simulated PostgreSQL in memory: tables, transactions, savepoints, row locks, and deadlock detection."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg

from tradesaga.consumers.testing.simulation.broker import EPOCH_NS
from tradesaga.consumers.testing.simulation.loop import SimLoop

LOCK_LIMIT: Final = 3.0
"""Seconds for which a statement waits for a row lock, like `lock_timeout`."""
BEGINNING: Final = datetime.fromtimestamp(EPOCH_NS // 1_000_000_000, UTC)

Key = tuple[Any, ...]
Row = Any
Statement = Callable[..., Awaitable[Any]]
"""A simulated statement: it takes the transaction and the arguments, and returns rows or a command tag."""

_MISSING: Final = object()


def select(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """Return some columns of a row."""
    return {column: row[column] for column in columns}


@dataclass(slots=True)
class CommittedEffect:
    """One committed effect, with the epochs of the lanes under which it was written."""

    effect: Key
    epochs: dict[int, int]


class Transaction:
    """One open transaction: its uncommitted writes, and its row locks."""

    def __init__(self, database: "SimDatabase") -> None:
        self.database = database
        self.written: dict[str, dict[Key, Row]] = {}
        self.effects: list[Key] = []
        self.epochs: dict[int, int] = {}
        self.failed = False
        self.over = False
        self.waits_for: Transaction | None = None
        self._undo: list[tuple[str, Key, Row]] = []
        self._locks: list[tuple[str, Key]] = []

    def get(self, table: str, key: Key) -> Row | None:
        """Read a row as this transaction sees it."""
        own = self.written.get(table)
        if own is not None and (row := own.get(key, _MISSING)) is not _MISSING:
            return row
        return self.database.tables[table].get(key)

    def rows(self, table: str) -> Iterator[tuple[Key, Row]]:
        """List a table as this transaction sees it."""
        own = self.written.get(table)
        if not own:
            yield from list(self.database.tables[table].items())
            return
        for key, row in list((self.database.tables[table] | own).items()):
            if row is not None:
                yield key, row

    def put(self, table: str, key: Key, row: Row | None) -> None:
        """Write a row; None deletes it."""
        own = self.written.setdefault(table, {})
        self._undo.append((table, key, own.get(key, _MISSING)))
        own[key] = row

    async def insert(self, table: str, key: Key, row: Row) -> None:
        """Insert a row; raises `UniqueViolationError` if the key exists."""
        if await self.lock(table, key) is not None:
            raise asyncpg.UniqueViolationError(f"duplicate key in {table}: {key}")
        self.put(table, key, row)

    def savepoint(self) -> tuple[int, int]:
        """Return the savepoint for `roll_back_to`."""
        return len(self._undo), len(self.effects)

    def roll_back_to(self, savepoint: tuple[int, int]) -> None:
        """Undo the writes since a savepoint."""
        writes, effects = savepoint
        self.failed = False
        del self.effects[effects:]
        while len(self._undo) > writes:
            table, key, before = self._undo.pop()
            if before is _MISSING:
                del self.written[table][key]
            else:
                self.written[table][key] = before

    def try_lock(self, table: str, key: Key) -> bool:
        """Lock a row unless another transaction has locked it; return whether this one has the lock."""
        locks, name = self.database.locks, (table, key)
        holder = locks.get(name)
        if holder is self:
            return True
        if holder is not None:
            return False
        locks[name] = self
        self._locks.append(name)
        return True

    async def lock(self, table: str, key: Key) -> Row | None:
        """Lock a row and return it, None if there is none. Waits for the transaction that has locked it.

        Raises `DeadlockDetectedError`, or `LockNotAvailableError` after `LOCK_LIMIT`.
        """
        while not self.try_lock(table, key):
            await self._wait((table, key))
        return self.get(table, key)

    async def _wait(self, name: tuple[str, Key]) -> None:
        holder = self.database.locks[name]
        self.database.waits += 1
        other: Transaction | None = holder
        while other is not None:
            if other is self:
                raise asyncpg.DeadlockDetectedError("deadlock detected")
            other = other.waits_for
        self.waits_for = holder
        future = self.database.loop.create_future()
        self.database.waiters.setdefault(name, []).append(future)
        try:
            async with asyncio.timeout(LOCK_LIMIT):
                await future
        except TimeoutError:
            raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout") from None
        finally:
            self.waits_for = None

    def commit(self) -> None:
        """Make all writes visible, and release the locks."""
        for table, rows in self.written.items():
            stored = self.database.tables[table]
            for key, row in rows.items():
                if row is None:
                    stored.pop(key, None)
                else:
                    stored[key] = row
        for lane, epoch in self.epochs.items():
            self.database.check_owner(lane, epoch)
        for effect in self.effects:
            self.database.effects.append(CommittedEffect(effect, self.epochs))
        self.end()

    def end(self) -> None:
        """Release the locks; without a commit before, the writes are lost."""
        self.over = True
        for name in self._locks:
            del self.database.locks[name]
            for future in self.database.waiters.pop(name, ()):
                if not future.done():
                    future.set_result(None)
        self._locks.clear()


@dataclass
class SimDatabase:
    """A database: its tables, its locks, and the statements that it can run."""

    loop: SimLoop
    statements: Mapping[str, Statement]
    clock_offset: float = 0.0
    tables: dict[str, dict[Key, Row]] = field(
        default_factory=lambda: {
            name: {} for name in ("lane", "outbox", "step_execution", "saga", "saga_event", "parked", "hold", "user")
        }
    )
    locks: dict[tuple[str, Key], Transaction] = field(default_factory=dict[tuple[str, Key], Transaction])
    waiters: dict[tuple[str, Key], list["asyncio.Future[None]"]] = field(
        default_factory=dict[tuple[str, Key], list["asyncio.Future[None]"]]
    )
    effects: list[CommittedEffect] = field(default_factory=list[CommittedEffect])
    """Effects in the order of their commits."""
    places: dict[int, Key] = field(default_factory=dict[int, Key])
    """The key of each lane by its id: (group, topic, partition)."""
    stale: list[str] = field(default_factory=list[str])
    """Writes that were committed for a former owner of a lane."""
    unknown: set[str] = field(default_factory=set[str])
    """Statements that were sent, and for which there is no function."""
    waits: int = 0
    fenced: int = 0

    def now(self) -> float:
        """Return the server's time in seconds since the start of the simulation."""
        return self.loop.time() + self.clock_offset

    def timestamp(self) -> datetime:
        """Return the server's time as a timestamp."""
        return BEGINNING + timedelta(seconds=self.now())

    def check_owner(self, lane: int, epoch: int) -> None:
        """Record a commit under an epoch that is no longer the lane's."""
        place = self.places[lane]
        current = self.tables["lane"][place]["epoch"]
        if epoch != current:
            self.stale.append(f"{place} was written under epoch {epoch}, after epoch {current} had replaced it")
