"""Group commit: changes that arrive while one batch is being written go together into the next."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from sqlite3 import Error as SqliteError

from tradesaga.infra.paper_exchange.ledger import Ledger
from tradesaga.infra.paper_exchange.records import Change


class JournalBrokenError(Exception):
    """The ledger cannot be written; what is in memory is ahead of it, so the process has to start over."""


class Journal:
    """Writes changes in their order; `publish` gets each batch once it is durable."""

    def __init__(self, ledger: Ledger, publish: Callable[[Sequence[Change]], None]) -> None:
        self._ledger = ledger
        self._publish = publish
        self._waiting: list[Change] = []
        self._written: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._work = asyncio.Event()
        self._stopping = False
        self.broken: str | None = None
        self.commits = 0
        self.changes = 0

    def append(self, change: Change) -> asyncio.Future[None]:
        """Queue a change; the future ends once it is durable, and with it all before it."""
        if self.broken is not None:
            raise JournalBrokenError(self.broken)
        self._waiting.append(change)
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        self._work.set()
        return self._written

    async def settled(self) -> None:
        """Wait until everything appended so far is durable."""
        if self.broken is not None:
            raise JournalBrokenError(self.broken)
        last = self._written or self._writing
        if last is not None:
            await asyncio.shield(last)

    def stop(self) -> None:
        """Make `run` end once nothing is left to write."""
        self._stopping = True
        self._work.set()

    async def run(self) -> None:
        """Write until stopped; raise if the ledger can no longer be written."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "ledger") as thread:
            while await self._more():
                changes, self._waiting = self._waiting, []
                written, self._written = self._written, None
                self._writing = written
                try:
                    await loop.run_in_executor(thread, self._ledger.write, changes)
                except (SqliteError, OSError) as error:
                    self._break(str(error), written)
                    raise JournalBrokenError(str(error)) from error
                self.commits += 1
                self.changes += len(changes)
                self._publish(changes)
                if written is not None:
                    written.set_result(None)
                self._writing = None

    async def _more(self) -> bool:
        while not self._waiting:
            if self._stopping:
                return False
            self._work.clear()
            await self._work.wait()
        return True

    def _break(self, why: str, *written: asyncio.Future[None] | None) -> None:
        self.broken = why
        for future in (*written, self._written):
            if future is not None:
                future.set_exception(JournalBrokenError(why))
                future.exception()
