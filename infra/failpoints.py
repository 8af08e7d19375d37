"""Failpoints: named places of the step path where a test may kill, stop or delay the process; otherwise no-ops."""

import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

from tradesaga.infra.errors import CommandError, ExitCode

VARIABLE: Final = "TRADESAGA_FAILPOINT"
"""Environment variable `<name>:<n>`: the process kills itself with SIGKILL at the n-th pass."""


class Failpoint(StrEnum):
    """Places where a crash could do damage."""

    IN_CLAIM = "in_claim"
    BEFORE_COMMIT = "before_commit"
    AFTER_COMMIT = "after_commit"
    IN_PUBLISH = "in_publish"
    AFTER_PUBLISH = "after_publish"
    BEFORE_MARK = "before_mark"
    AFTER_MARK = "after_mark"
    BEFORE_OFFSET_COMMIT = "before_offset_commit"
    AFTER_OFFSET_COMMIT = "after_offset_commit"
    BEFORE_CALL = "before_call"
    AFTER_CALL = "after_call"
    IN_COMPENSATION = "in_compensation"


_reached: Callable[[Failpoint], None] | None = None


def reach(failpoint: Failpoint) -> None:
    """Call the listener, if there is one."""
    if _reached is not None:
        _reached(failpoint)


@contextmanager
def listen(listener: Callable[[Failpoint], None]) -> Generator[None]:
    """Call `listener` at every failpoint while the context is open; its errors are raised there."""
    global _reached  # noqa: PLW0603 - a process has one listener
    former, _reached = _reached, listener
    try:
        yield
    finally:
        _reached = former


def arm() -> None:
    """Arm the failpoint named by the environment, if any, until the process ends.

    Raises `CommandError` (exit 2).
    """
    global _reached  # noqa: PLW0603 - a process has one listener
    if wish := os.environ.get(VARIABLE):
        _reached = _Countdown(wish)


class _Countdown:
    def __init__(self, wish: str) -> None:
        name, _, times = wish.partition(":")
        try:
            self._fatal, self._left = Failpoint(name), int(times or 1)
        except ValueError as error:
            what = f"{VARIABLE}={wish} is not <name>:<n>"
            do = f"unset it, or name one of {', '.join(Failpoint)}"
            raise CommandError("failpoint", what, "environment", do, ExitCode.USAGE) from error

    def __call__(self, failpoint: Failpoint) -> None:
        if failpoint is not self._fatal:
            return
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
