"""Whoever is told to end while a client of Kafka closes ends, and the client has closed."""

import asyncio
import contextlib
from unittest.mock import patch

from infra import kafka_identity
from infra.kafka_identity import inspecting


class _Admin:
    """A client that takes an end for that of its own task, as aiokafka's do on their way down."""

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self.closed = False

    async def start(self) -> None:
        """Connect."""

    async def list_consumer_groups(self) -> list[object]:
        """Return no group."""
        return []

    async def close(self) -> None:
        """Close in two turns, deaf to the first end."""
        self.closing.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)
        self.closed = True


async def test_an_end_while_an_inspector_closes_is_not_lost() -> None:
    """A group that was told to end in the middle of a check would otherwise go on for ever."""
    admin = _Admin()

    async def check() -> None:
        async with inspecting("127.0.0.1:1") as inspector:
            await inspector.groups_of("topic", "group")
        await asyncio.sleep(60)

    with patch.object(kafka_identity, "make_admin", return_value=admin):
        checking = asyncio.create_task(check())
        await admin.closing.wait()
        checking.cancel()
        await asyncio.wait([checking], timeout=5)
    assert checking.cancelled()
    assert admin.closed
