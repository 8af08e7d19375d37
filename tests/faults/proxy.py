"""A TCP proxy between one process and one server, which delays, cuts, or swallows what the run tells it to."""

import asyncio
from dataclasses import dataclass, field
from typing import Final, Literal

Way = Literal["to_server", "to_client"]
_CHUNK: Final = 65_536
_COMMIT: Final = b"COMMIT;\0"
"""What asyncpg sends to end a transaction: a simple query."""


@dataclass(eq=False)
class _Pair:
    """One connection through the proxy; `mute` means that the server's next words are not passed on."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    mute: bool = False

    def abort(self) -> None:
        """Reset both halves."""
        for writer in (self.client, self.server):
            writer.transport.abort()


@dataclass(eq=False)
class Link:
    """The way from one process to one server. All connections of it meet the same fate.

    What is stalled is kept and flows on later, as packets do that TCP sends again; what is cut is lost.
    """

    name: str
    target: int
    port: int = 0
    delay: float = 0.0
    swallowed: int = 0
    _swallow: int = 0
    _refusing: bool = False
    _server: asyncio.Server | None = None
    _pairs: set[_Pair] = field(default_factory=set[_Pair])
    _tasks: set[asyncio.Task[None]] = field(default_factory=set["asyncio.Task[None]"])
    _open: dict[Way, asyncio.Event] = field(default_factory=dict[Way, asyncio.Event])

    async def start(self) -> None:
        """Listen on a port of loopback, the given one if there is one."""
        self._open = {"to_server": asyncio.Event(), "to_client": asyncio.Event()}
        self.heal()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        self.heal()
        self.reset()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    def reset(self) -> None:
        """Abort every connection there is; new ones are let through."""
        for pair in list(self._pairs):
            pair.abort()

    def cut(self) -> None:
        """Abort every connection, and refuse new ones until healed."""
        self._refusing = True
        self.reset()

    def stall(self, *ways: Way) -> None:
        """Let nothing pass these ways until healed; both are a black hole, one is a one-way cut."""
        for way in ways or ("to_server", "to_client"):
            self._open[way].clear()

    def heal(self) -> None:
        """Let everything through again, undelayed."""
        self._refusing, self.delay, self._swallow = False, 0.0, 0
        for gate in self._open.values():
            gate.set()

    def swallow_commits(self, count: int) -> None:
        """Pass the next commits on to the server, and cut the connection in place of its answer."""
        self._swallow = count

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._refusing:
            writer.transport.abort()
            return
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, server)
        self._pairs.add(pair)
        try:
            await self._carry(pair, reader, answers)
        finally:
            pair.abort()
            self._pairs.discard(pair)

    async def _carry(self, pair: _Pair, reader: asyncio.StreamReader, answers: asyncio.StreamReader) -> None:
        """Carry both ways until either half ends."""
        ways = [
            asyncio.create_task(self._pump(pair, reader, pair.server, "to_server")),
            asyncio.create_task(self._pump(pair, answers, pair.client, "to_client")),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)

    async def _pump(self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._open[way].wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if way == "to_server" and self._swallow and _COMMIT in data:
                    self._swallow -= 1
                    pair.mute = True
                elif way == "to_client" and pair.mute:
                    self.swallowed += 1
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            return  # one half has gone; the other follows


@dataclass(frozen=True, eq=False)
class Bundle:
    """The ways from one process to every broker; they meet the same fate."""

    links: tuple[Link, ...]

    @property
    def addresses(self) -> str:
        """Give where the process finds the brokers, as clients of Kafka write it."""
        return ",".join(f"127.0.0.1:{link.port}" for link in self.links)

    def cut(self) -> None:
        """Abort every connection, and refuse new ones until healed."""
        for link in self.links:
            link.cut()

    def stall(self, *ways: Way) -> None:
        """Let nothing pass these ways until healed."""
        for link in self.links:
            link.stall(*ways)

    def heal(self) -> None:
        """Let everything through again."""
        for link in self.links:
            link.heal()
