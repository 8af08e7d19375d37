"""A TCP link to a server that takes its time: every piece of an answer comes late."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

_PIECE = 64 * 1024


class SlowLink:
    """Forwards to a server; `delay` is in seconds and may be changed while it runs."""

    def __init__(self, host: str, port: int, delay: float) -> None:
        self._target = (host, port)
        self.delay = delay
        self._tasks: set[asyncio.Task[None]] = set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        answers, requests = await asyncio.open_connection(*self._target)
        ways = [
            asyncio.create_task(self._pump(reader, requests, late=False)),
            asyncio.create_task(self._pump(answers, writer, late=True)),
        ]
        self._tasks.update(ways)
        await asyncio.wait(ways)
        self._tasks.difference_update(ways)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool) -> None:
        try:
            while piece := await reader.read(_PIECE):
                if late:
                    await asyncio.sleep(self.delay)
                writer.write(piece)
                await writer.drain()
        except OSError:
            return  # the other end has hung up
        finally:
            writer.close()

    async def close(self) -> None:
        """Cut all connections."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def slow_database(url: str, delay: float) -> AsyncGenerator[tuple[SlowLink, str]]:
    """Give a link to the database, and the URL that leads over it."""
    parts = urlsplit(url)
    link = SlowLink(parts.hostname or "127.0.0.1", parts.port or 5432, delay)
    server = await asyncio.start_server(link.carry, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    login = parts.netloc.rsplit("@", 1)[0]
    try:
        yield link, parts._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()
    finally:
        server.close()
        await link.close()
        await server.wait_closed()
