"""Requests from a file or a pipe: JSON Lines or one JSON array, numbered so that errors can name the line."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import BinaryIO, Final, Generic, NamedTuple, TypeVar

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.starts.accept import SIZE_LIMIT
from tradesaga.infra.starts.strict_json import StrictJsonError, check_json

_AHEAD: Final = 2000
"""Items read ahead at which reading waits."""

T = TypeVar("T")


class _Reader(Generic[T]):
    def __init__(self, source: Iterable[T]) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(_AHEAD)
        self.queue: asyncio.Queue[T | _End] = asyncio.Queue()

    def read(self) -> None:
        """Read to the end; an error of the source is passed to the event loop."""
        end = _End(None)
        try:
            for item in self._source:
                self._room.acquire()
                self._put(item)
        except Exception as error:  # noqa: BLE001 - raised in `batches`
            end = _End(error)
        self._put(end)

    def _put(self, item: "T | _End") -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)

    def taken(self, count: int) -> None:
        """Let as many further items be read ahead."""
        self._room.release(max(1, count))


class _End:
    def __init__(self, error: Exception | None) -> None:
        self.error = error


async def batches(source: Iterable[T], limit: int) -> AsyncGenerator[list[T]]:
    """Yield the items of `source` in lists of at most `limit`, each as soon as it has an item."""
    reader = _Reader(source)
    # A daemon thread: one that is stuck in a read must not keep the process from ending.
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


ARRAY_LIMIT: Final = 64 * 1024 * 1024
"""Maximum bytes of a JSON array, which is read whole; a file of lines has no such limit."""
LINE_LIMIT: Final = SIZE_LIMIT + 2
"""Bytes kept of a line: its end, and one more than a request may have, so that a longer one is rejected."""


class Line(NamedTuple):
    """The text of one request, and its number from 1."""

    number: int
    text: bytes


def read_lines(source: BinaryIO, name: str) -> Iterator[Line]:
    """Yield the requests; empty lines are skipped. Raises `CommandError` (exit 2) for a broken array."""
    number = 0
    while head := source.readline(LINE_LIMIT):
        number += 1
        text = head.strip()
        if not text.startswith(b"[") or number > 1:
            _skip_rest(head, source)
        if not text:
            continue
        if number == 1 and text.startswith(b"["):
            yield from _read_array(head + source.read(ARRAY_LIMIT), name)
            return
        yield Line(number, text)


def _skip_rest(head: bytes, source: BinaryIO) -> None:
    """Skip the part of a line beyond `LINE_LIMIT`."""
    while head and not head.endswith(b"\n"):
        head = source.readline(LINE_LIMIT)


def _read_array(text: bytes, name: str) -> Iterator[Line]:
    if len(text) > ARRAY_LIMIT:
        raise _broken(f"the array has more than {ARRAY_LIMIT} bytes", name)
    try:
        items = check_json(text)
    except StrictJsonError as error:
        raise _broken(str(error), name) from None
    for number, item in enumerate(items, 1):
        yield Line(number, json.dumps(item).encode())


def _broken(what: str, name: str) -> CommandError:
    do = "write JSON Lines, one request per line, or one JSON array"
    return CommandError("not-json", f"the requests cannot be read: {what}", name, do, ExitCode.USAGE)
