"""Whoever is told to end while a client of Kafka closes ends, and the client has closed."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from tradesaga.infra.kafka.connections import MappedConsumer, MappedProducer
from tradesaga.infra.kafka.inspector import open_inspector

NOWHERE = "127.0.0.1:1"


class _Closing:
    """What aiokafka's clients do on their way down: take an end for that of a task of their own."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.closed = False

    async def close(self) -> None:
        """Close in two turns, deaf to the first end."""
        self.begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)
        self.closed = True


async def _inspect() -> None:
    with (
        patch.object(AIOKafkaAdminClient, "start"),
        patch.object(AIOKafkaAdminClient, "list_consumer_groups") as listed,
    ):
        listed.return_value = []
        async with open_inspector(NOWHERE) as inspector:
            await inspector.groups_of("topic", "group")


async def _consume() -> None:
    await MappedConsumer(NOWHERE).stop()


async def _produce() -> None:
    await MappedProducer(NOWHERE).stop()


@pytest.mark.parametrize(
    ("client", "method", "use"),
    [
        (AIOKafkaAdminClient, "close", _inspect),
        (AIOKafkaConsumer, "stop", _consume),
        (AIOKafkaProducer, "stop", _produce),
    ],
)
async def test_an_end_while_a_client_closes_is_not_lost(
    client: type, method: str, use: Callable[[], Awaitable[None]]
) -> None:
    """A group that was told to end in the middle of a check would otherwise go on for ever."""
    closing, real = _Closing(), getattr(client, method)

    async def close(self: Any) -> None:
        await closing.close()
        await real(self)

    async def work() -> None:
        await use()
        await asyncio.sleep(60)

    with patch.object(client, method, close):
        working = asyncio.create_task(work())
        await closing.begun.wait()
        working.cancel()
        await asyncio.wait([working], timeout=5)
    assert working.cancelled()
    assert closing.closed
