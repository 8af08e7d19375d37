"""Blocking reads beside an event loop: a thread reads, the loop takes what has come so far."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterable
from typing import Final, Generic, TypeVar

_AHEAD: Final = 2000
"""Items read and not yet taken at which reading waits."""

T = TypeVar("T")


class _Reader(Generic[T]):
    def __init__(self, source: Iterable[T]) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(_AHEAD)
        self.queue: asyncio.Queue[T | _End] = asyncio.Queue()

    def read(self) -> None:
        """Read to the end; what the source raises is carried over to the loop."""
        end = _End(None)
        try:
            for item in self._source:
                self._room.acquire()
                self._put(item)
        except Exception as error:  # noqa: BLE001 - it is raised where the items are taken
            end = _End(error)
        self._put(end)

    def _put(self, item: "T | _End") -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)

    def taken(self, count: int) -> None:
        """Make room for as many."""
        self._room.release(max(1, count))


class _End:
    def __init__(self, error: Exception | None) -> None:
        self.error = error


async def batches(source: Iterable[T], limit: int) -> AsyncGenerator[list[T]]:
    """Yield the items of `source` in lists of at most `limit`, each as soon as it has an item."""
    reader = _Reader(source)
    # A thread that is stuck in a read must not keep the process from ending.
    threading.Thread(target=reader.read, name="lines", daemon=True).start()
    while True:
        batch: list[T] = []
        item = await reader.queue.get()
        while not isinstance(item, _End):
            batch.append(item)
            if len(batch) == limit or reader.queue.empty():
                break
            item = reader.queue.get_nowait()
        if batch:
            reader.taken(len(batch))
            yield batch
        if isinstance(item, _End):
            if item.error is not None:
                raise item.error
            return
