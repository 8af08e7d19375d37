"""The phases of the run, each a set of acts that break something and let it be again."""

from collections.abc import Awaitable, Callable

from tests.faults.stage import Stage

Act = Callable[[Stage], Awaitable[None]]
