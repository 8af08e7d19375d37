"""Waiting for what is sure to come, with an end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def until(question: Callable[[], Awaitable[Any]], seconds: float = 20.0) -> None:
    """Ask again and again until the answer is true; raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while True:
            if await question():
                return
            await asyncio.sleep(0.02)
