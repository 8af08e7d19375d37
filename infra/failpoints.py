"""Named places of the step path at which a test may let the process die, stop or wait; elsewhere they do nothing."""

import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

from tradesaga.infra.errors import CommandError, ExitCode

VARIABLE: Final = "TRADESAGA_FAILPOINT"
"""Environment variable `<name>:<n>`: the process kills itself with SIGKILL when it gets there the n-th time."""


class Failpoint(StrEnum):
    """Where a crash could hurt."""

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
    """Tell whoever listens that the process has come to this place."""
    if _reached is not None:
        _reached(failpoint)


@contextmanager
def listen(listener: Callable[[Failpoint], None]) -> Generator[None]:
    """Have `listener` called at every failpoint while the context is open; what it raises is raised there."""
    global _reached  # noqa: PLW0603 - a process has one listener
    former, _reached = _reached, listener
    try:
        yield
    finally:
        _reached = former


def arm() -> None:
    """Arm the failpoint that the environment names, if it names one, for the life of the process.

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
