"""The simulated network: bytes come late, all by the same time, and none is lost."""

import asyncio
import time

from tests.benchmarks.scale_out.network import Wire

DELAY = 0.25
"""Seconds: a machine that stands still for a moment must not look like a wire that does."""


async def test_pieces_on_the_wire_do_not_wait_for_each_other() -> None:
    """Ten pieces sent at intervals shorter than the delay arrive after one delay, in order, not after ten."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1000):
            writer.write(piece)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    wire = Wire("test", server.sockets[0].getsockname()[1])
    await wire.start()
    wire.delay = DELAY
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    try:
        began = time.perf_counter()
        for number in range(10):
            writer.write(b"%d" % number)
            await asyncio.sleep(DELAY / 10)
        answer = await reader.readexactly(10)
        took = time.perf_counter() - began
    finally:
        writer.close()
        await wire.stop()
        server.close()
    assert answer == b"0123456789"
    assert wire.carried == 20
    assert 3 * DELAY * 0.9 <= took < 10 * DELAY, "sending took one delay, and each way another"
