"""The end of a process that can no longer end by itself, so that whoever supervises it starts another."""

import asyncio
import faulthandler
import os
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from tradesaga.infra.errors import ExitCode

LOOK_SECONDS: Final = 5.0
MISSED: Final = 24
"""Looks in a row at which the event loop has not turned: two minutes in which nothing is read, sent or answered."""


@asynccontextmanager
async def guarding(look: float = LOOK_SECONDS, missed: int = MISSED) -> AsyncGenerator[None]:
    """End the process if the running event loop stands still while the body runs.

    Looks are counted, not seconds: a process that was stopped with all its threads has missed none.
    """
    loop, over, turned = asyncio.get_running_loop(), threading.Event(), threading.Event()

    def watch() -> None:
        left = missed
        while not over.wait(look):
            left = missed if turned.is_set() else left - 1
            turned.clear()
            if not left:
                faulthandler.dump_traceback(sys.stderr)
                leave("the event loop stands still; the stacks of all threads are above")
            loop.call_soon_threadsafe(turned.set)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def leave(why: str) -> None:
    """End the process at once, with exit code 5 and nothing tidied up: that is what a crash is built for."""
    structlog.get_logger("tradesaga.run").critical("leaving", why=why)
    sys.stderr.flush()
    os._exit(ExitCode.UNAVAILABLE)
