"""A network that is simulated: a proxy before each server, through which every byte comes late, both ways."""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final, Self

from tests.faults.proxy import Link, Way

_CHUNK: Final = 65_536
_UNDER_WAY: Final = 256
"""Pieces on the wire at once; beyond them the sender waits, as with a full window."""
_LIMIT: Final = 30.0


class Wire(Link):
    """A link whose bytes are all under way at once: a later piece does not wait for an earlier one's delay."""

    carried: int = 0

    async def _pump(self, pair: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        clock = asyncio.get_running_loop().time
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)
        delivering = asyncio.create_task(_deliver(pieces, writer))
        try:
            while (data := await reader.read(_CHUNK)) and not delivering.done():
                self.carried += len(data)
                await pieces.put((clock() + self.delay, data))
            await pieces.put((0.0, b""))
            await delivering
        except OSError:
            return  # one half has gone; the other follows
        finally:
            delivering.cancel()


async def _deliver(pieces: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        due, data = await pieces.get()
        if not data:
            return
        if (ahead := due - clock()) > 0:
            await asyncio.sleep(ahead)
        writer.write(data)
        await writer.drain()


class Network:
    """The wires to both servers, on an event loop in a thread of its own while it is entered."""

    def __init__(self) -> None:
        self.kafka, self.postgres = Wire("kafka", 0), Wire("postgres", 0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        for wire in (self.kafka, self.postgres):
            self._run(wire.start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for wire in (self.kafka, self.postgres):
            self._run(wire.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def delay(self, seconds: float) -> None:
        """Let every byte take so long from now on, each way."""
        self.kafka.delay = self.postgres.delay = seconds

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_LIMIT)
