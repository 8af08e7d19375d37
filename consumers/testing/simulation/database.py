"""PostgreSQL in memory: atomic commits, row locks that others wait for, savepoints, and sessions that end."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg

from tradesaga.consumers.testing.simulation.broker import EPOCH_NS
from tradesaga.consumers.testing.simulation.loop import SimLoop

LOCK_LIMIT: Final = 3.0
"""Seconds for which a statement waits for a row, as `lock_timeout` says."""
BEGINNING: Final = datetime.fromtimestamp(EPOCH_NS // 1_000_000_000, UTC)

Key = tuple[Any, ...]
Row = Any
Statement = Callable[..., Awaitable[Any]]
"""A simulated statement: it gets the transaction and the arguments, and gives rows, or a command tag."""

_MISSING: Final = object()


@dataclass(slots=True)
class Committed:
    """One effect, as committed: in which order, and under which epochs of which lanes."""

    number: int
    effect: Key
    epochs: dict[int, int]


class Transaction:
    """One open transaction: what it has written and locked, and nobody else sees."""

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

    def rows_at(self, table: str, key: Key) -> Row:
        """Read a row that is known to be there."""
        row = self.get(table, key)
        if row is None:
            raise LookupError(f"{table} has no row {key}")
        return row

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
        """Write a row, or with None delete it."""
        own = self.written.setdefault(table, {})
        self._undo.append((table, key, own.get(key, _MISSING)))
        own[key] = row

    def savepoint(self) -> tuple[int, int]:
        """Return a mark to roll back to."""
        return len(self._undo), len(self.effects)

    def roll_back_to(self, mark: tuple[int, int]) -> None:
        """Forget what was written since a mark."""
        self.failed = False
        del self.effects[mark[1] :]
        while len(self._undo) > mark[0]:
            table, key, before = self._undo.pop()
            if before is _MISSING:
                del self.written[table][key]
            else:
                self.written[table][key] = before

    def try_lock(self, table: str, key: Key) -> bool:
        """Lock a row unless another transaction holds it; say whether it is locked."""
        locks, name = self.database.locks, (table, key)
        holder = locks.get(name)
        if holder is self:
            return True
        if holder is not None:
            return False
        locks[name] = self
        self._locks.append(name)
        return True

    async def lock(self, table: str, key: Key) -> None:
        """Lock a row, waiting for whoever holds it. Raises what PostgreSQL would for a deadlock or a long wait."""
        while not self.try_lock(table, key):
            await self._wait((table, key))

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
        """Make the transaction's writes visible at once."""
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
            self.database.remember(effect, self.epochs)
        self.end()

    def end(self) -> None:
        """Release the locks; without a commit before, nothing was written."""
        self.over = True
        for name in self._locks:
            del self.database.locks[name]
            for future in self.database.waiters.pop(name, ()):
                if not future.done():
                    future.set_result(None)
        self._locks.clear()


@dataclass
class SimDatabase:
    """Tables, locks, and the statements that it understands."""

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
    effects: list[Committed] = field(default_factory=list[Committed])
    places: dict[int, Key] = field(default_factory=dict[int, Key])
    """Lanes by their ids: (group, topic, partition)."""
    stale: list[str] = field(default_factory=list[str])
    """Writes that were committed for a lane's former owner."""
    unknown: set[str] = field(default_factory=set[str])
    """Statements that somebody has sent, and for which there is no function."""
    waits: int = 0
    fenced: int = 0

    def now(self) -> float:
        """Return the server's clock, seconds since the simulation's beginning."""
        return self.loop.time() + self.clock_offset

    def moment(self) -> datetime:
        """Return the server's clock as a timestamp."""
        return BEGINNING + timedelta(seconds=self.now())

    def check_owner(self, lane: int, epoch: int) -> None:
        """Note a commit under an epoch that is not the lane's any more."""
        place = self.places[lane]
        current = self.tables["lane"][place]["epoch"]
        if epoch != current:
            self.stale.append(f"{place} was written under epoch {epoch}, which {current} had replaced")

    def remember(self, effect: Key, epochs: dict[int, int]) -> None:
        """Keep an effect in the order of commits."""
        self.effects.append(Committed(len(self.effects), effect, epochs))
